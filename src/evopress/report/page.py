"""report.html: what the files of one or several runs say, as one page that needs nothing else.

The page is made by a template of this package with everything escaped. It loads nothing: figures are inline SVG, the
style is inline, and its content security policy lets it run its own few lines of script and nothing besides.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from evopress.core.files import size, write_text
from evopress.core.profile import DROP
from evopress.report import allocation, commands, front, history
from evopress.report.charts import Chart, Mark, columns, scatter, short
from evopress.report.data import RunData, read_all
from evopress.run import wording
from evopress.settings.called import CALLED, question
from evopress.settings.config import flat


def write_report(paths: Sequence[Path], out: Path) -> None:
    """Write the page of one run, or of several runs of one model; RunError or RunMismatch when they cannot be shown."""
    write_text(out, render(read_all(paths)))


def write_front(paths: Sequence[Path], out: Path) -> None:
    """Write the front of size against KL of several runs as an SVG file of its own; nothing when none was scored."""
    chart = front.pareto([run for run in read_all(paths) if run.evaluation], "kl")
    if chart is not None:
        figure = environment().get_template("figure.svg")
        write_text(out, figure.render(chart=chart, style=_resource("charts.css")))


def render(runs: Sequence[RunData]) -> str:
    """The page as text."""
    page = environment().get_template("page.html")
    style, script = _resource("charts.css") + _resource("style.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    views = (
        [view(run, f"run{number}.") for number, run in enumerate(runs, start=1)] if len(runs) > 1 else [view(runs[0])]
    )
    together = front.view(runs) if len(runs) > 1 else None
    title = views[0]["title"] if len(runs) == 1 else f"{len(runs)} runs of {model_name(runs[0])}"
    return page.render(title=title, runs=views, front=together, style=style, script=script, digest=digest)


def environment() -> Environment:
    """The templates, with everything escaped and an error for every name that is not there."""
    made = Environment(
        loader=PackageLoader("evopress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["size"] = size
    helpers = (describe, level_text, part_class, parts_of, columns_of, interval, sure)
    made.globals |= {helper.__name__: helper for helper in (*helpers, wording.after_bos, wording.final)}
    return made


def view(run: RunData, name: str = "") -> dict[str, Any]:
    """What the template needs of one run; `name` begins its ids and keys."""
    course, found = history.generations(run), allocation.cells(run)
    return {
        "id": name,
        "run": run,
        "title": f"{model_name(run)} {_at(run)} {wording.budget_text(run.config)}",
        "asked": asked(run),
        "came": came(run, course),
        "columns": wording.COLUMNS,
        "tiles": tiles(run, course),
        "course": course,
        "charts": [chart for chart in (_by_tokens(course), _by_time(course)) if chart],
        "cells": found,
        "grid": grid(found),
        "summaries": {"role": allocation.by_role(found), "level": allocation.by_level(found)},
        "drops": not run.uniform and any(cell.level == DROP for cell in found),
        "quantum": QUANTA[run.config.budget.counts],
        "blocks": _block_chart(run, found),
        "bytes": allocation.bytes_of(run),
        "polish": _polish_chart(run),
        "stages": history.stages(run),
        "config": flat(run.config),
        "reproduce": commands.reproduce(run.config, str(run.path)),
        "use": commands.use(run),
    }


def _at(run: RunData) -> str:
    return CALLED[run.config.families[-1]].joins


def model_name(run: RunData) -> str:
    """The last part of where a model comes from: a directory's path would fill the title."""
    return Path(run.config.model.source).name or run.config.model.source


QUANTA = {
    "bits": "bits a weight",
    "bpw": "bits a weight",
    "size": "",
    "weights": "share kept",
    "count": "",
    "parameters": "",
    "bytes": "",
}
"""What a cost for each weight is called, where it means something."""


def asked(run: RunData) -> str:
    """What was asked, in a sentence."""
    config, search = run.config, run.config.search
    asked_for = question(config.families).format(model=model_name(run), budget=wording.budget_text(config))
    how = "the best of random profiles" if search.strategy == "best-of" else "an evolutionary search"
    return f"{asked_for} Asked of {how} on text from {Path(config.data.source).name}."


def came(run: RunData, course: Sequence[history.Generation]) -> str:
    """What came out, in a sentence."""
    if run.evaluation is not None:
        rows = run.evaluation["profiles"]
        row, dense = rows[wording.final(rows)], rows["dense"]
        dense_files = run.config.export.target is None and run.config.compression.method != "drop"
        taken = f"takes {size(row['bytes'])}, {row['bytes'] / dense['bytes']:.0%} of the dense model's size"
        return (
            f"{wording.verdict(run.evaluation)} {'Packed, it' if dense_files else 'It'} {taken}, and its perplexity on "
            f"held-out text is {row['perplexity']:.2f}, where the dense model's is {dense['perplexity']:.2f}."
        )
    if run.profile is not None:
        return "The search is finished; its result has not been scored on held-out text yet."
    done = [one for one in course if one.accepted is not None and one.fitness is not None]
    if not done:
        return "The search has not scored a generation yet."
    return (
        f"After generation {done[-1].number} of {wording.generations_text(run.config)} and {done[-1].tokens:,} "
        f"evaluated tokens, the best profile so far has a fitness of {done[-1].fitness:.5g}."
    )


def tiles(run: RunData, course: Sequence[history.Generation]) -> list[tuple[str, str, str]]:
    """The few numbers that matter most: (name, value, remark)."""
    found = []
    if run.evaluation is not None:
        rows = run.evaluation["profiles"]
        row, dense = rows[wording.final(rows)], rows["dense"]
        others = {name: rows[name]["kl"] for name in wording.others(rows)}
        best = min(others, key=lambda name: others[name], default=None)
        found.append(("KL to dense", f"{row['kl']:.4f}", f"{best}: {others[best]:.4f}" if best else ""))
        found.append(("perplexity", f"{row['perplexity']:.2f}", f"dense: {dense['perplexity']:.2f}"))
        found.append(("size", size(row["bytes"]), f"dense: {size(dense['bytes'])}"))
    if course:
        taken = sum(one.accepted is True for one in course if one.number)
        over = sum(one.accepted is not None for one in course if one.number)
        found.append(("generations", str(over), f"{taken} accepted"))
        seconds = [one.seconds for one in course if one.seconds is not None]
        found.append(
            ("tokens scored", short(course[-1].tokens), f"in {wording.duration(seconds[-1])}" if seconds else "")
        )
    return found


def describe(cell: allocation.Cell) -> str:
    """What pointing at a cell says."""
    error = "" if cell.error is None else f", layer error {cell.error:.5f}"
    uniform = "" if cell.uniform in (None, cell.level) else f" (uniform: {cell.uniform})"
    return f"{cell.unit.name}: level {cell.level}{uniform}, {size(cell.bytes)}{error}"


def level_text(level: str) -> str:
    """What a cell shows of its level."""
    return {"drop": "\N{MULTIPLICATION SIGN}", "keep": "\N{MIDDLE DOT}"}.get(
        level, level.replace("-", "\N{MINUS SIGN}")
    )


def columns_of(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The columns that a table of scores has: those that any of its rows knows."""
    return [key for key in wording.COLUMNS if any(key in row for row in rows.values())]


def interval(found: Mapping[str, Any], profile: str, key: str) -> tuple[float, float] | None:
    """The limits of a value's confidence interval; None where it has none, or no width."""
    limits = found.get("uncertainty", {}).get("intervals", {}).get(profile, {}).get(key)
    return None if limits is None or limits[0] == limits[1] else (limits[0], limits[1])


def sure(found: Mapping[str, Any]) -> list[str]:
    """What paired tests say of the searched profile, a line each."""
    return wording.differences(found).splitlines()


def part_class(part: str, models: Sequence[allocation.Parts]) -> str:
    """The style of a part: what is stored in shades of one colour, what comes on top in another, the rest gray."""
    named = {allocation.OVERHEAD: "overhead", allocation.REST: "rest"}
    return named.get(part) or f"place{parts_of(models).index(part) % 4}"


def parts_of(models: Sequence[allocation.Parts]) -> list[str]:
    """The parts that any of the models has, what is not compressed last."""
    found = dict.fromkeys(part for model in models for part in model.parts)
    return sorted(found, key=lambda part: part == allocation.REST)


def grid(found: Sequence[allocation.Cell]) -> dict[str, Any]:
    """The heat map: `blocks` in order, `rows` as (role, cells with None where a block has none), `ends` outside blocks.

    `legend` counts units as (step from uniform, level, number).
    """
    inside = [cell for cell in found if allocation.in_block(cell.unit)]
    blocks = sorted({cell.unit.block for cell in inside})
    rows: dict[str, dict[int, allocation.Cell]] = {}
    for cell in inside:
        rows.setdefault(cell.unit.role, {})[cell.unit.block] = cell
    kinds: dict[tuple[int, str], int] = {}
    for cell in found:
        kinds[cell.step, cell.level] = kinds.get((cell.step, cell.level), 0) + 1
    return {
        "blocks": blocks,
        "rows": [(role, [row.get(block) for block in blocks]) for role, row in rows.items()],
        "ends": [cell for cell in found if not allocation.in_block(cell.unit)],
        "legend": [(step, level, kinds[step, level]) for step, level in sorted(kinds)],
    }


def _by_tokens(course: Sequence[history.Generation]) -> Chart | None:
    return _convergence([(one.tokens, one) for one in course], "Fitness by tokens evaluated", "tokens evaluated")


def _by_time(course: Sequence[history.Generation]) -> Chart | None:
    timed = [(one.seconds / 60, one) for one in course if one.seconds is not None]
    return _convergence(timed, "Fitness by wall time", "minutes")


def _convergence(at: Sequence[tuple[float, history.Generation]], title: str, x_label: str) -> Chart | None:
    marks, line = [], []
    for x, one in at:
        marks += [
            Mark(x, score, "rejected", f"generation {one.number}: rejected, {score:.5g}") for score in one.rejected
        ]
        if one.fitness is not None and one.accepted is not None:
            word = "accepted" if one.accepted else "parent kept"
            marks.append(Mark(x, one.fitness, word.split()[0], f"generation {one.number}: {word}, {one.fitness:.5g}"))
            line.append((x, one.fitness))
    return scatter(marks, line, title=title, x_label=x_label, y_label="fitness (lower is better)", step=False)


def _block_chart(run: RunData, found: tuple[allocation.Cell, ...]) -> Chart | None:
    values = [
        (own.name, own.average - own.uniform, f"block {own.name}: {own.average:.4g}, uniform {own.uniform:.4g}")
        for own in allocation.by_block(found)
        if own.uniform is not None
    ]
    quantum = QUANTA[run.config.budget.counts]
    if not any(cell.step for cell in found):
        return None
    return columns(values, title=f"What each block gets beside uniform, in {quantum}", x_label="block", y_label=quantum)


def _polish_chart(run: RunData) -> Chart | None:
    if run.polish is None or not any(before for before, _ in run.polish.blocks):
        return None
    values = [
        (
            str(block),
            100 * (after / before - 1) if before else 0.0,
            f"block {block}: {before:.4g} before, {after:.4g} after",
        )
        for block, (before, after) in enumerate(run.polish.blocks)
    ]
    title = "By how much the error of each block's outputs changed, in percent"
    return columns(values, title=title, x_label="block", y_label="percent")


def _resource(name: str) -> str:
    return (files("evopress.report") / "templates" / name).read_text(encoding="utf-8")
