"""Flags made from the configuration's fields, so that each setting is described once and every one is a flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from evopress.config import Config, section_type
from evopress.errors import ConfigError
from evopress.search.presets import ApplicationName
from evopress.sections import Section

HIDDEN = {("model", "source"), ("data", "source"), ("budget", "target"), ("budget", "counts"), ("search", "preset")}
"""Fields that are arguments of their own."""
HIDDEN |= {("search", "automatic")}  # a record, not a setting


def with_settings(
    command: Callable[..., None],
    *applications: ApplicationName,
    like: Callable[..., None] | None = None,
    without: tuple[str, ...] = (),
    **defaults: Any,
) -> Callable[..., None]:
    """Give `command` (which takes `**settings`) a flag for every field of the configurations of some applications.

    `like` is the function whose own arguments it takes (itself by default), `without` drops some of them, `defaults`
    replaces defaults.
    """
    own = [
        p for p in inspect.signature(like or command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    named = [p.replace(kind=p.KEYWORD_ONLY, default=defaults.get(p.name, p.default)) for p in own]
    kept = [p for p in named if p.name not in without]
    fields = {field.name: field for application in reversed(applications) for field in _fields(application)}
    parameters = kept + [field for name, field in fields.items() if name not in {p.name for p in kept}]

    def call(**arguments: Any) -> None:
        command(**arguments)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = (like or command).__doc__
    return call


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


def refuse(flags: Mapping[str, object], reason: str) -> None:
    """ConfigError for the first of these flags that was given."""
    for flag, value in flags.items():
        if value is not None:
            raise ConfigError(f"{flag} {value} {reason}")


def parsed(settings: dict[str, Any], application: ApplicationName) -> dict[str, Any]:
    """Flag values as configuration values."""
    lists = {
        name: get_args(field.annotation)[0]
        for section in _sections(application).values()
        for name, field in section.model_fields.items()
        if get_origin(field.annotation) is tuple
    }
    return {name: _list(value, name, lists[name]) if name in lists else value for name, value in settings.items()}


def _list(text: str | None, name: str, kind: type) -> tuple[Any, ...] | None:
    if kind is int:
        return numbers(text, name.replace("_", "-"))
    return None if text is None else names(text)


def _sections(application: ApplicationName) -> dict[str, type[Section]]:
    return {name: section_type(name, application) for name in Config.model_fields if name != "schema_version"}


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


Out = Annotated[Path, typer.Option("--out", "-o", help="run directory")]
"""Where a run lives."""
