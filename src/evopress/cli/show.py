"""What the terminal shows: progress with time left, a line a generation, tables and the picture of a profile.

Progress goes to standard error. Results go to standard output, where `--json` makes them one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evopress.cli.tables import front_table, scores_table, tasks_table
from evopress.core.files import size
from evopress.core.space import SearchSpace
from evopress.run.directory import RunDirectory
from evopress.run.observer import Observer
from evopress.run.wording import budget_text, differences, generations_text, place, verdict
from evopress.search.stopping import Limits
from evopress.search.types import BatchResult
from evopress.settings.config import Config

COLORS = ("red3", "dark_orange", "gold1", "chartreuse3", "deep_sky_blue1", "medium_purple1", "orchid", "white")
"""From the most compressed level to the least."""

PIPED_WIDTH = 120
"""Columns of tables that no terminal shows: eighty cut the headings of the widest."""


class Screen(Observer):
    """Draws a run. With `as_json` the result is data on standard output."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._err = Console(stderr=True, highlight=False)
        self._out = Console(stderr=as_json, highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._err,
        )
        self._tasks: dict[str, TaskID] = {}
        self._generations = 0
        self._candidate: float | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def title(self, config: Config, out: Path) -> None:
        """What is about to happen, in one line."""
        self._err.print(f"[bold]evopress[/] {config.model.source} at {budget_text(config)} -> {out}")
        self._generations = 0 if config.search.limits != Limits() else config.search.generations or 0

    def note(self, text: str) -> None:
        """One line."""
        self._err.print(Text(text, style="dim"))

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        """A bar for each phase."""
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase, total=total, detail=detail)
            if not self._err.is_terminal:
                self.note(f"{phase} ...")
        self._progress.update(self._tasks[phase], completed=done, total=total, detail=Text(detail[:40], style="dim"))

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        """A line for each generation, and the bar of the search."""
        generation = result.batch.generation
        if result.accepted is None:
            return
        verdict = Text("accepted", style="green") if result.accepted else Text("kept parent", style="dim")
        line = Text(
            f"generation {generation:>3}   fitness {result.score:<8.5g} "
            f"{space.cost(result.best) / space.budget:.2%} of the budget   "
        )
        line.append(f"{tokens / 1000:>8.1f}k tokens   ").append_text(verdict)
        self._err.print(line.append(" (from the journal)" if result.replayed else ""), soft_wrap=True)
        if self._generations:
            self.progress("search", generation, self._generations)

    def result(self, run: RunDirectory, evaluation: dict[str, Any]) -> None:
        """The end of a whole run."""
        self._progress.stop()
        if self._as_json:
            print(json.dumps(evaluation))
            return
        levels = read_levels(run)
        if levels:
            self._out.print(picture(levels))
        self._out.print(scores_table(evaluation))
        self._out.print(verdict(evaluation))
        self._out.print(differences(evaluation), soft_wrap=True)
        self._out.print(f"checkpoint: {run.export}   ({time.monotonic() - self._started:.0f} s)")

    def step(self, run: RunDirectory, result: Any) -> None:
        """The end of one step."""
        self._progress.stop()
        if self._as_json:
            from evopress.report.summary import summarize

            own = {"export": str(result)} if isinstance(result, Path) else {}
            print(json.dumps(result if isinstance(result, dict) else summarize(run) | own))
        elif isinstance(result, dict) and "tasks" in result:
            self._out.print(tasks_table(result))
        elif isinstance(result, dict):
            self._out.print(scores_table(result))
            self._out.print(differences(result), soft_wrap=True)
        else:
            self._out.print(f"checkpoint: {result}" if isinstance(result, Path) else f"done: {run.path}")

    def front(self, found: dict[str, Any], out: Path) -> None:
        """The end of a sweep: what each target came to."""
        self._progress.stop()
        if self._as_json:
            print(json.dumps(found))
            return
        self._out.print(front_table(found))
        self._out.print(f"report: {out / 'report.html'}   a checkpoint: evopress export {out / 'TARGET'}")

    def analyses(self, run: RunDirectory, found: Mapping[str, Any]) -> None:
        """What `analyze` found: its tables, or with `as_json` its data."""
        self._progress.stop()
        if self._as_json:
            print(json.dumps({name: asdict(one.found) for name, one in found.items()}))
            return
        for one in found.values():
            for content in one.tables:
                table = Table(title=content.title, title_justify="left")
                for number, header in enumerate(content.headers):
                    table.add_column(header, justify="right" if number else "left")
                for row in content.rows:
                    table.add_row(*row)
                self._out.print(table)
        self._out.print(f"data and figures: {run.path / 'analysis'}")

    def summary(self, run: RunDirectory, found: dict[str, Any]) -> None:
        """What `inspect` shows."""
        self._progress.stop()
        if self._as_json:
            print(json.dumps(found))
            return
        config, database, search = run.config, found["database"], found["search"]
        self._out.print(f"[bold]{run.path}[/]: {config.model.source} at {budget_text(config)}")
        self._out.print(
            f"database: {database['units']} of {database['of']} units, {size(database['bytes'])}"
            if database
            else f"database: {'none needed' if config.compression.method == 'drop' else 'not begun'}"
        )
        if found["share"] is not None and config.compression.application != "depth":
            self._out.print(f"weights: {found['share']:.1%} of the blocks' are compressed")
        self._out.print(
            f"search: generation {search['generation']} of {generations_text(config)}, {search['batches']} batches"
            if search
            else "search: not begun"
        )
        if found["polish"]:
            polish = found["polish"]
            said = (polish["result"] or "nothing gained") if polish["done"] else "begun"
            self._out.print(f"polish: {said}")
        if found["profile"]:
            self._out.print(picture(found["profile"]["profile"]))
        self._out.print(scores_table(found["evaluation"]) if found["evaluation"] else "evaluation: not begun")
        self._out.print(f"export: {found['export'] or 'not begun'}")


def read_levels(run: RunDirectory) -> dict[str, str]:
    """unit -> level of the searched profile."""
    from evopress.run.records import read_profile

    return dict(read_profile(run.profile).items())


SYMBOLS = {"drop": "x", "keep": "-"}
"""Levels whose name is not what a cell of the picture shows."""


def picture(levels: dict[str, str]) -> Text:
    """One row for each role, one column for each block, the level in the cell; colder colors keep more.

    Embedding and head, where they have levels, are rows of one cell.
    """
    known = sorted(set(levels.values()), key=lambda level: (len(level), level))
    roles: dict[str, dict[int | None, str]] = {}
    for name, level in levels.items():
        block, role = place(name)
        roles.setdefault(role, {})[block] = level
    blocks = sorted({block for row in roles.values() for block in row if block is not None})
    width = max(map(len, roles))
    cell = max(len(SYMBOLS.get(level, level)) for level in known)
    text = Text(f"{'level by block':<{width}}  {blocks[0]} to {blocks[-1]}\n", style="dim")
    for role, row in roles.items():
        text.append(f"{role:<{width}}  ", style="default")
        for level in row.values() if None in row else [row.get(block, "") for block in blocks]:
            style = f"bold {COLORS[min(known.index(level), len(COLORS) - 1)]}" if level else ""
            text.append(f"{SYMBOLS.get(level, level) or '.':>{cell}} ", style=style)
        text.append("\n")
    return text
