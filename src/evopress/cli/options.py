"""Flags made from the configuration's fields, so that each setting is described once and every one is a flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from evopress.errors import ConfigError
from evopress.search.presets import ApplicationName
from evopress.settings.config import Config, section_type
from evopress.settings.sections import Section

PresetName = Annotated[str, typer.Option(help="paper, super-fast or quick")]
Data = Annotated[str | None, typer.Option(help="demo, a .txt/.jsonl/.parquet file, wikitext2, c4, ...")]
Track = Annotated[list[str] | None, typer.Option(help="log the search with tensorboard, wandb or trackio; repeatable")]
Json = Annotated[bool, typer.Option("--json", help="print the result as one JSON object on standard output")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Model = Annotated[str, typer.Argument(help="directory, hub id, .gguf file, or demo")]
Counts = Annotated[str, typer.Option(help="what the fraction is of: count (of units), parameters or bytes")]
Out = Annotated[Path, typer.Option("--out", "-o", help="run directory")]
Given = list[str] | None
"""What a flag that can be repeated was given."""


def _shared(
    preset: PresetName = "quick", data: Data = None, track: Track = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Only its signature matters: the arguments of every command that compresses."""


HIDDEN = {("model", "source"), ("data", "source"), ("budget", "target"), ("budget", "counts"), ("search", "preset")}
"""Fields that are arguments of their own."""
HIDDEN |= {("search", "automatic")}  # a record, not a setting


def with_settings(
    command: Callable[..., None],
    *families: ApplicationName,
    like: Callable[..., None] | None = None,
    without: tuple[str, ...] = (),
    **defaults: Any,
) -> Callable[..., None]:
    """Give `command` a flag for every field of the configurations of some families, and those of `_shared`.

    They come as keyword arguments. `like` is the function whose own arguments it takes (itself by default), `without`
    drops some of them, `defaults` replaces defaults.
    """
    own = [p for p in _arguments(like or command) + _arguments(_shared) if p.kind is not p.VAR_KEYWORD]
    named = [p.replace(kind=p.KEYWORD_ONLY, default=defaults.get(p.name, p.default)) for p in own]
    kept = [p for p in named if p.name not in without]
    fields = {field.name: field for family in reversed(families) for field in _fields(family)}
    parameters = kept + [field for name, field in fields.items() if name not in {p.name for p in kept}]

    def call(**arguments: Any) -> None:
        command(**arguments)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = (like or command).__doc__
    return call


def _arguments(function: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def numbers(text: str | None, flag: str) -> tuple[int, ...] | None:
    """`8,2,1` -> (8, 2, 1); ConfigError otherwise."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{flag} is {text!r}; expected whole numbers with commas, such as 8,2,1") from None


def names(text: str) -> tuple[str, ...]:
    """`arc_easy, winogrande` -> (arc_easy, winogrande)."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def trackers(given: Given) -> tuple[str, ...]:
    """The names of trackers in all uses of `--track`."""
    return names(",".join(given or ()))


def refuse(flags: Mapping[str, object], reason: str) -> None:
    """ConfigError for the first of these flags that was given."""
    for flag, value in flags.items():
        if value is not None:
            raise ConfigError(f"{flag} {value} {reason}")


def parsed(settings: dict[str, Any], *families: ApplicationName) -> dict[str, Any]:
    """Flag values as configuration values."""
    lists = {
        name: get_args(field.annotation)[0]
        for family in families
        for section in _sections(family).values()
        for name, field in section.model_fields.items()
        if get_origin(field.annotation) is tuple
    }
    return {name: _list(value, name, lists[name]) if name in lists else value for name, value in settings.items()}


def _list(text: str | None, name: str, kind: type) -> tuple[Any, ...] | None:
    if kind is int:
        return numbers(text, name.replace("_", "-"))
    return None if text is None else names(text)


def _sections(application: ApplicationName) -> dict[str, type[Section]]:
    return {
        name: section_type(name, application) for name in Config.model_fields if name not in ("schema_version", "depth")
    }


def _fields(application: ApplicationName) -> list[inspect.Parameter]:
    made = []
    for section, kind in _sections(application).items():
        for name, field in kind.model_fields.items():
            if (section, name) in HIDDEN or get_args(field.annotation) == ("drop",):
                continue
            flag = "--" + name.replace("_", "-")
            flags = [f"{flag}/--no-{name.replace('_', '-')}"] if field.annotation is bool else [flag]
            option = typer.Option(*flags, help=field.description, show_default=False, rich_help_panel=section.title())
            made.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[_flag_type(field.annotation) | None, option],
                )
            )
    return made


def _flag_type(annotation: Any) -> Any:
    if get_origin(annotation) is Literal or get_origin(annotation) is tuple:
        return str
    plain = [part for part in get_args(annotation) if part is not type(None)]
    return plain[0] if plain else annotation
