"""What a report knows: the files of a run directory, read as they are, whatever state the run is in.

Nothing is locked, written or loaded but JSON and the configuration, so a running or killed run can be read like a
finished one. Files that are not there are None; of a journal that is still being written, the whole lines count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evopress.core.polish_record import PolishRecord
from evopress.core.profile import Level, Unit
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, JournalError, RunMismatch
from evopress.formats.staging import is_whole
from evopress.run.directory import read_run
from evopress.run.progress import read_progress
from evopress.run.records import polish_record, read_json
from evopress.settings.config import Config


@dataclass(frozen=True)
class RunData:
    """The content of one run directory.

    `batches` are the journal's lines, `progress` those of progress.jsonl, of which the last may be missing. `space` is
    space.json; `profile`, `evaluation`, `comparison`, `tasks` the files of that name, `polish` polished/polish.json.
    """

    path: Path
    config: Config
    model: str | None
    space: Mapping[str, Any] | None
    batches: tuple[Mapping[str, Any], ...]
    progress: tuple[Mapping[str, Any], ...]
    profile: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    comparison: Mapping[str, Any] | None
    tasks: Mapping[str, Any] | None
    polish: PolishRecord | None
    exported: bool

    @property
    def finished(self) -> bool:
        """Whether search and evaluation are done."""
        return self.profile is not None and self.evaluation is not None

    @cached_property
    def search_space(self) -> SearchSpace | None:
        """What could be chosen, by the units that profiles name; None before the search has begun."""
        if self.space is None:
            return None
        units = tuple(
            Unit(
                unit["name"],
                unit["block"],
                unit["role"],
                unit["size"],
                tuple(Level(level["name"], level["cost"]) for level in unit["levels"]),
            )
            for unit in self.space["units"]
        )
        split, groups = self.space["split"], tuple(map(tuple, self.space["groups"]))
        rungs = tuple(map(tuple, self.space.get("rungs", ())))
        bundles = tuple(map(tuple, self.space.get("bundles", ())))
        return SearchSpace(units, self.space["budget"], groups, split and tuple(split), rungs, bundles)

    @cached_property
    def levels(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """unit -> level -> cost, bits, codes and error."""
        units = self.space["units"] if self.space else []
        return {unit["name"]: {level["name"]: level for level in unit["levels"]} for unit in units}

    @cached_property
    def choice(self) -> Mapping[str, str]:
        """unit -> level of the result, or of the best profile so far; empty before there is one."""
        if self.profile is not None:
            return dict(self.profile["profile"])
        best: dict[str, str] = {}
        for line in self.progress:
            best |= line["best"]
        return best

    @cached_property
    def uniform(self) -> Mapping[str, str]:
        """unit -> level of the uniform profile of the same budget; empty where there is none, as for depth."""
        if self.search_space is None or self.config.compression.method == "drop":
            return {}
        try:
            return dict(self.search_space.uniform().items())
        except BudgetError:
            return {}


def read_data(path: Path) -> RunData:
    """The run in a directory, finished or not; RunError when there is none or a file of results is damaged."""
    run = read_run(path)
    header, batches = read_journal(run.journal)
    return RunData(
        path=path,
        config=run.config,
        model=_model(header),
        space=_optional(run.space, "search"),
        batches=batches,
        progress=tuple(read_progress(run.progress))[: len(batches)],
        profile=_optional(run.profile, "search"),
        evaluation=_optional(run.evaluation, "evaluate"),
        comparison=_optional(run.comparison, "compare"),
        tasks=_optional(run.tasks, "evaluate"),
        polish=polish_record(run),
        exported=is_whole(run.export),
    )


def read_all(paths: Sequence[Path]) -> tuple[RunData, ...]:
    """Several runs, each once; RunMismatch when they are not of one model."""
    runs = tuple(read_data(path) for path in dict.fromkeys(paths))
    first = runs[0]
    for other in runs[1:]:
        same = first.model == other.model if first.model and other.model else _source(first) == _source(other)
        if not same:
            names = [f"{run.path} is of {_source(run)}" for run in (first, other)]
            differ = "" if _source(first) != _source(other) else " with other weights"
            raise RunMismatch(f"{names[0]} and {names[1]}{differ}; one report is for runs of one model")
    return runs


def read_journal(path: Path) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    """Header and batches of a journal, without the line that is being written; JournalError when one is damaged."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            body = json.loads(line)
            found.append({key: body[key] for key in (("fingerprint",) if number == 1 else BATCH)})
            if number > 1:
                found[-1]["scores"] = [float(score) for score in body["scores"]]  # what is not finite is text
            if "part" in body:
                found[-1]["part"] = body["part"]
        except (ValueError, KeyError, TypeError):
            raise JournalError(f"line {number} of {path} is damaged; restore the file or start a new run") from None
    return (found[0]["fingerprint"] if found else {}), tuple(found[1:])


BATCH = ("generation", "stage", "tokens", "scores")
"""What a report needs of a journal's line."""


def _model(header: Mapping[str, Any]) -> str | None:
    """The fingerprint of the model's weights; None when nothing has recorded it yet."""
    found = header.get("model")
    return None if found is None else str(found)


def _source(run: RunData) -> str:
    return run.config.model.source


def _optional(path: Path, step: str) -> dict[str, Any] | None:
    return read_json(path, step) if path.exists() else None
