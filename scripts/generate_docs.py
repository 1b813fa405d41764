"""Writes the parts of the documentation that the program itself knows best, so that they cannot differ from it.

    python scripts/generate_docs.py

renders docs/cli.md from the commands and the error classes, and the marked blocks of other pages: the tables of
presets, the list of architectures, and which rooms of the package import which. `tests/docs` fails when a page is not
what this script would write. It takes seconds, most of them the import of transformers.
"""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from evopress import errors
from evopress.cli.app import app
from evopress.models.depth import Cost
from evopress.search.presets import PRESETS, ApplicationName
from evopress.settings.called import CALLED
from evopress.settings.config import Config, flat
from evopress.settings.resolve import resolve
from evopress.testing import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[1]
NOT_ERRORS = {
    0: ("", "the command did what it was asked for"),
    1: ("", "an error that nobody expected; run again with `--debug` and report it"),
    2: ("", "the command line itself is wrong: unknown option, missing argument, a value of the wrong type"),
    130: ("", "interrupted with Ctrl-C; the same command goes on"),
}
NAMES = {str: "TEXT", int: "N", float: "NUMBER"}
APPLICATION: dict[str, ApplicationName] = {"sparsify": "sparsity", "drop": "depth"}
"""Command -> the application whose settings it has; bits where none is named."""
BUDGET: dict[ApplicationName, dict[str, float]] = {
    "bits": {"bits": 3},
    "sparsity": {"sparsity": 0.5},
    "depth": {"fraction": 0.25},
}
"""Family -> some budget, to resolve its presets with."""
PRESET_ROWS = ("data.", "compression.levels", "compression.group_size", "budget.exchange", "search.")
"""The sections and fields whose resolved values the tables of presets show, where presets decide them."""
UNDECIDED = {
    "data.source",
    "data.text_seed",
    "search.preset",
    "search.automatic",
    "search.seed",
    "search.start_profile",
    "search.fitness",
    "search.strategy",
    "search.sensitivity_tokens",
    "search.time",
    "search.token_limit",
    "search.patience",
}
"""Fields in these sections that no preset decides."""


def main() -> None:
    """Write every page."""
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")


def rendered() -> dict[Path, str]:
    """Page -> what it should hold."""
    pages = {ROOT / "docs" / "cli.md": cli_page()}
    for name, block, make in (
        ("README.md", "architectures", architectures),
        ("docs/architecture.md", "layers", layers),
        ("docs/architecture.md", "rooms", rooms),
        ("docs/concepts.md", "presets", lambda: presets_table("bits")),
        ("docs/concepts.md", "presets-sparsity", lambda: presets_table("sparsity")),
        ("docs/concepts.md", "presets-depth", lambda: presets_table("depth")),
    ):
        path = ROOT / name
        text = pages[path] if path in pages else path.read_text(encoding="utf-8")
        pages[path] = fill(text, block, make())
    return pages


def fill(text: str, block: str, content: str) -> str:
    """`text` with what stands between `<!-- block:begin -->` and `<!-- block:end -->` replaced by `content`."""
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"the marks {begin} and {end} are missing")
    return f"{head}{begin}\n{content.strip()}\n{end}{tail}"


def cli_page() -> str:
    """The whole of docs/cli.md."""
    callbacks = [(info.name, info.callback) for info in app.registered_commands if info.callback is not None]
    commands = {name or str(getattr(callback, "__name__", "")): callback for name, callback in callbacks}
    whole = ["quantize", "sparsify", "drop", "demo", "sweep"]
    order = [*whole, *(name for name in commands if name not in whole)]
    helps = {name: _help(name, commands[name]) for name in order}
    lines = [
        "# Command line",
        "",
        "<!-- This page is written by scripts/generate_docs.py; edit the commands, not the page. -->",
        "",
        "| command | |",
        "| --- | --- |",
        *(f"| [`evopress {name}`](#evopress-{name}) | {helps[name]} |" for name in order),
        "",
        "Progress goes to standard error, results to standard output. A setting that is not given has the value of the "
        "preset; [concepts](concepts.md#presets) has the table. What a setting means is told there, too.",
        "",
    ]
    shown: dict[str, str] = {}
    for name in order:
        lines += _command(name, commands[name], helps[name], shown)
    return "\n".join([*lines, *_exit_codes()]) + "\n"


def _help(name: str, callback: Callable[..., None]) -> str:
    info = next(i for i in app.registered_commands if i.callback is callback)
    text = info.help or inspect.getdoc(callback) or ""
    if not text:
        raise ValueError(f"the command {name} has no help text")
    return " ".join(text.split())


def _command(name: str, callback: Callable[..., None], text: str, shown: dict[str, str]) -> Iterator[str]:
    """Lines of one command. Settings that an earlier command showed in full are referred to."""
    own, settings = [], []
    arguments = ""
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        kind, info = _annotation(parameter)
        if isinstance(info, ArgumentInfo):
            arguments += f" {info.metavar or parameter.name.upper()}"
            own.append(f"| `{info.metavar or parameter.name.upper()}` | {info.help or ''} | required |")
            continue
        panel = info.rich_help_panel if isinstance(info.rich_help_panel, str) else ""
        shape = _flags(parameter, kind, info, APPLICATION.get(name, "bits"))
        if panel:
            settings.append((panel.lower(), f"| {shape} | {info.help or ''} |"))
        else:
            own.append(f"| {shape} | {info.help or ''} | {_default(parameter)} |")
    yield from (f"## evopress {name}", "", text, "", "```", f"evopress {name}{arguments} [OPTIONS]", "```", "")
    yield from ("| | | default |", "| --- | --- | --- |", *own, "")
    fresh = [(panel, row) for panel, row in settings if row not in shown]
    if settings and len(fresh) < len(settings):
        for owner in dict.fromkeys(shown.values()):
            rows = [row for _, row in settings if shown.get(row) == owner]
            if listed := ", ".join(f"`{flag}`" for row in rows for flag in re.findall(r"`(--[a-z-]+)", row)):
                yield from (f"And these settings of [`evopress {owner}`](#evopress-{owner}): {listed}.", "")
    for section in dict.fromkeys(panel for panel, _ in fresh):
        yield from (f"Settings of the section `{section}`:", "", "| | |", "| --- | --- |")
        yield from (row for panel, row in fresh if panel == section)
        yield ""
    shown.update({row: name for _, row in fresh})


def _annotation(parameter: inspect.Parameter) -> tuple[Any, ArgumentInfo | OptionInfo]:
    if get_origin(parameter.annotation) is not Annotated:
        raise ValueError(f"{parameter.name} is no typer parameter")
    kind, info = get_args(parameter.annotation)
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is list:
        [kind] = get_args(kind)
    return kind, info


def _flags(
    parameter: inspect.Parameter, kind: Any, info: ArgumentInfo | OptionInfo, application: ApplicationName
) -> str:
    given = (info.default, *(info.param_decls or ()))  # inside Annotated, the first flag lands in `default`
    declared = [flag for flag in given if isinstance(flag, str) and flag.startswith("-")]
    flags = [part for flag in declared or ["--" + parameter.name.replace("_", "-")] for part in flag.split("/")]
    value = (
        "" if kind is bool else " " + (_values(parameter.name, application) or NAMES.get(kind, kind.__name__.upper()))
    )
    return ", ".join(f"`{flag}{value}`" for flag in flags)


def _values(name: str, application: ApplicationName) -> str:
    """The values a setting can have where they are few: `equal, free, ...`; `N,N` for lists."""
    if name == "preset":
        return "\\|".join(PRESETS[application])
    if name == "counts":
        return "\\|".join(get_args(Cost))
    for section in (CALLED[application].section, *(field.annotation for field in Config.model_fields.values())):
        annotation = getattr(section, "model_fields", {}).get(name)
        if annotation is not None and get_origin(annotation.annotation) is Literal:
            return "\\|".join(map(str, get_args(annotation.annotation)))
        if annotation is not None and get_origin(annotation.annotation) is tuple:
            return "N,N,..." if get_args(annotation.annotation)[0] is int else "NAME,NAME,..."
    return ""


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    return "" if parameter.default in (None, False) else f"`{parameter.default}`"


def _exit_codes() -> Iterator[str]:
    """The table of exit codes, from the classes of evopress.errors."""
    rows = dict(NOT_ERRORS)
    for name, error in vars(errors).items():
        if inspect.isclass(error) and issubclass(error, errors.EvopressError) and error is not errors.EvopressError:
            rows[error.exit_code] = (f"`{name}`", " ".join((inspect.getdoc(error) or "").split()))
    yield from ("## Exit codes", "")
    yield (
        "Every error is one line on standard error: what was wrong, the value, and what would be right. `--debug` adds "
        'the traceback. With `--json`, standard output holds `{"error": ..., "exit_code": ...}`. What to do about each '
        "is told in [troubleshooting](troubleshooting.md). In Python the same errors are raised as exceptions of "
        "`evopress.errors`."
    )
    yield from ("", "| code | error | meaning |", "| --: | --- | --- |")
    yield from (f"| {code} | {name} | {meaning.rstrip('.')} |" for code, (name, meaning) in sorted(rows.items()))


def presets_table(application: ApplicationName) -> str:
    """One row for each setting that presets decide, one column for each preset; all for bits, else what differs."""
    columns = {name: _preset(application, name) for name in PRESETS[application]}
    bits = {name: _preset("bits", name) for name in PRESETS["bits"]}
    keys = [key for key in next(iter(columns.values())) if key not in UNDECIDED]
    if application != "bits":
        keys = [key for key in keys if any(columns[name][key] != bits[name][key] for name in columns)]
    lines = ["| setting | " + " | ".join(f"`{name}`" for name in columns) + " |", "| --- |" + " --: |" * len(columns)]
    for key in keys:
        flag = "--" + key.partition(".")[2].replace("_", "-")
        lines.append(f"| `{flag}` | " + " | ".join(_shown(values[key]) for values in columns.values()) + " |")
    return "\n".join(lines)


def _preset(application: ApplicationName, name: str) -> dict[str, Any]:
    """`section.key` -> value of the settings that a preset decides."""
    config = resolve("model", preset=name, data="text.txt", **BUDGET[application])  # type: ignore[arg-type]
    return {key: value for key, value in flat(config).items() if key.startswith(PRESET_ROWS)}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "k (n − k) / 1.5" if value is None else str(value)  # the generations of depth


def architectures() -> str:
    """The model types that the tests run on, as a list in one line."""
    names = [re.sub(r"_text$", "", name) for name in ARCHITECTURES]
    return textwrap.fill(", ".join(f"`{name}`" for name in names) + ".", 120)


def arrows() -> dict[str, list[str]]:
    """Room, or module beside the rooms -> what it imports of the others, for type checkers too."""
    source = ROOT / "src" / "evopress"
    found: dict[str, set[str]] = {}
    for path in sorted(source.rglob("*.py")):
        part = path.relative_to(source).parts[0].removesuffix(".py")
        own = found.setdefault(part, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if names == ["evopress"]:
                names = [f"evopress.{alias.name}" for alias in getattr(node, "names", [])]
            own |= {name.split(".")[1] for name in names if name.startswith("evopress.")} - {part}
    found.pop("__init__", None)  # the public names, which are all loaded when they are asked for
    return {part: sorted(own & found.keys()) for part, own in found.items()}


def layers() -> str:
    """The rooms in lines, the outermost first; whatever a room imports stands in lines below its own."""
    graph, depth = arrows(), {}
    for part in graphlib.TopologicalSorter(graph).static_order():
        depth[part] = 1 + max((depth[inner] for inner in graph[part]), default=0)
    lines = ["   ".join(sorted(part for part in depth if depth[part] == level)) for level in set(depth.values())]
    return "```text\n" + "\n".join(reversed(lines)) + "\n```"


def rooms() -> str:
    """A row for each room: what it is for, and what it imports."""
    graph, lines = arrows(), ["| room | what it is for | imports |", "| --- | --- | --- |"]
    for part in reversed(list(graphlib.TopologicalSorter(graph).static_order())):
        path = ROOT / "src" / "evopress" / part
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = " ".join(text.split("\n\n")[0].split()).rstrip(".:")
        link = f"[{part}{'/' if path.is_dir() else '.py'}](../src/evopress/{file.relative_to(path.parent)})"
        lines.append(f"| {link} | {first} | {', '.join(graph[part]) or 'nothing'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
