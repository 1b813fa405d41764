"""`evopress watch`: a run in the terminal, running or finished, read from its files again and again.

Nothing is locked and no process is spoken to: whoever can read the directory can watch, over a network file system too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evopress.cli.show import picture
from evopress.cli.tables import scores_table
from evopress.errors import JournalError
from evopress.report import RunData, read_data
from evopress.report.history import Generation, generations
from evopress.run.wording import budget_text, duration, generations_text, verdict

BARS = "▁▂▃▄▅▆▇█"
RECENT = 8
"""Generations that have a line."""


def watch(path: Path, console: Console, *, every: float = 1.0, sleep: Callable[[float], Any] = time.sleep) -> None:
    """Draw the run in `path` anew every few seconds until it is finished; Ctrl-C leaves it alone."""
    run = read_data(path)
    try:
        with Live(frame(run), console=console, auto_refresh=False) as live:
            while not run.finished:
                sleep(every)
                run = reread(path, run)
                live.update(frame(run), refresh=True)
    except KeyboardInterrupt:
        console.print("left; the run goes on")


def reread(path: Path, before: RunData) -> RunData:
    """The run's files now, or as they were where one is just being replaced."""
    try:
        return read_data(path)
    except JournalError:
        return before


def frame(run: RunData) -> Group:
    """All there is to see at a moment."""
    course = generations(run)
    parts: list[Any] = [Text(f"{run.path}: {run.config.model.source} at {budget_text(run.config)}", style="bold")]
    parts.append(_state(run, course))
    if total := run.config.search.generations:
        parts.append(ProgressBar(total=total, completed=_ended(course)[-1].number if _ended(course) else 0, width=48))
    if course:
        parts += [_spark(course), _table(course)]
    if run.choice:
        parts.append(picture(dict(run.choice)))
    if run.evaluation is not None:
        parts += [scores_table(dict(run.evaluation)), Text(verdict(run.evaluation))]
    return Group(*parts)


def _state(run: RunData, course: Sequence[Generation]) -> Text:
    """In what step the run is, and how far."""
    if run.finished:
        return Text("finished", style="green")
    if run.profile is not None:
        return Text("the search is finished; being scored on held-out text, or interrupted")
    if not course:
        return Text("the search has not begun: the database is being built, or the start is being measured")
    last = course[-1]
    took = f", {duration(last.seconds)}" if last.seconds is not None else ""
    of = generations_text(run.config)
    return Text(f"searching, or interrupted: generation {last.number} of {of}, {last.tokens:,} tokens{took}")


def _ended(course: Sequence[Generation]) -> list[Generation]:
    return [one for one in course if one.accepted is not None and one.fitness is not None]


def _spark(course: Sequence[Generation], width: int = 60) -> Text:
    """The fitness of the last generations as a row of bars."""
    values = [one.fitness for one in _ended(course)[-width:] if one.fitness is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    heights = [round((value - low) / (high - low) * (len(BARS) - 1)) if high > low else 0 for value in values]
    return Text("fitness  ") + Text("".join(BARS[height] for height in heights), style="cyan")


def _table(course: Sequence[Generation]) -> Table:
    """The last generations, a line each."""
    table = Table(box=None, pad_edge=False)
    for header in ("generation", "fitness", "tokens", "time", ""):
        table.add_column(header, justify="left" if not header else "right")
    for one in _ended(course)[-RECENT:]:
        word = Text("accepted", style="green") if one.accepted else Text("kept parent", style="dim")
        time_ = "" if one.seconds is None else duration(one.seconds)
        table.add_row(str(one.number), f"{one.fitness:.5g}", f"{one.tokens:,}", time_, word)
    return table
