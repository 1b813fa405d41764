"""The course of a search, from its journal: what each generation took, what it found, and how its stages selected."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from evopress.report.data import RunData
from evopress.report.races import losers, rerun
from evopress.search.planned import ranked


@dataclass(frozen=True)
class Generation:
    """A generation, 0 where the start was chosen. `fitness` is the score of the parent that it ended with.

    `tokens` and `seconds` are those since the search began; seconds are None where nobody timed. `accepted` is None
    when the generation is not over. `rejected` are the scores of the others in the last stage, each made comparable
    with `fitness`: in a race that is `fitness` plus the mean difference on the parts of text that both have read.
    """

    number: int
    tokens: int
    seconds: float | None
    accepted: bool | None
    fitness: float | None
    rejected: tuple[float, ...]


@dataclass(frozen=True)
class StageStatistics:
    """What one stage did over all generations.

    `spread` is the median standard deviation of a batch's scores. `first` is the share of generations in which the
    stage put on top what the stage before had on top; None for the first stage.
    """

    stage: int
    tokens: int
    batches: int
    candidates: int
    kept: int | None
    evaluated: int
    share: float
    spread: float | None
    first: float | None


def generations(run: RunData) -> tuple[Generation, ...]:
    """All generations in order, the last of which may be unfinished."""
    found, done = [], 0
    parent: dict[int, float] = {}
    race = run.config.search.race
    numbered = list(enumerate(run.batches))
    for number, group in groupby(numbered, key=lambda item: item[1]["generation"]):
        members = list(group)
        at, last = members[-1]
        done += sum(batch["tokens"] * len(batch["scores"]) for _, batch in members)
        line = run.progress[at] if at < len(run.progress) else None
        batches = [batch for _, batch in members]
        accepted, fitness, rejected = _raced(run, batches, parent) if number and race else _ended(run, last)
        if line:
            accepted, fitness = line["accepted"], line["score"]
        seconds = line["seconds"] if line else None
        before = line["tokens"] if line else done
        found.append(Generation(number, before, seconds, accepted, fitness, rejected))
    return tuple(found)


Ending = tuple[bool | None, float | None, tuple[float, ...]]
"""Of a generation: whether a new parent was taken, its score, and the scores of the rejected."""


def _ended(run: RunData, last: Mapping[str, Any]) -> Ending:
    """The end of a generation by its last batch, which in the last stage begins with the parent."""
    start = last["generation"] == 0
    if not start and last["stage"] < len(run.config.search.survivors) - 1:
        return None, None, ()
    scores = last["scores"]
    best, *others = ranked(scores)
    rejected = () if start else tuple(scores[i] for i in sorted(others) if math.isfinite(scores[i]))
    return start or best != 0, scores[best], rejected


def _raced(run: RunData, batches: Sequence[Mapping[str, Any]], parent: dict[int, float]) -> Ending:
    """The end of a generation whose last stage is a race, as far as the journal tells; `parent` as in `rerun`."""
    search, last = run.config.search, len(run.config.search.survivors) - 1
    before = [batch for batch in batches if batch["stage"] < last]
    children = min(search.survivors[last - 1], len(before[-1]["scores"])) if before else search.offspring
    track = rerun(batches[len(before) :], last, children, parent)
    if track is None or not track.over:
        return None, None, ()
    return track.winner != 0, track.mean(track.winner), losers(track)


def stages(run: RunData) -> tuple[StageStatistics, ...]:
    """Statistics of each stage, without the choice of the start; a race's parts count as stages."""
    searched = [batch for batch in run.batches if batch["generation"] > 0]
    total = sum(batch["tokens"] * len(batch["scores"]) for batch in searched)
    survivors = run.config.search.survivors
    found = []
    for stage in sorted({batch["stage"] for batch in searched}):
        own = [batch for batch in searched if batch["stage"] == stage]
        evaluated = sum(batch["tokens"] * len(batch["scores"]) for batch in own)
        spreads = [statistics.stdev(scores) for scores in map(_finite, own) if len(scores) > 1]
        found.append(
            StageStatistics(
                stage=stage,
                tokens=own[0]["tokens"],
                batches=len(own),
                candidates=sum(len(batch["scores"]) for batch in own),
                kept=survivors[stage] if stage < len(survivors) and not run.config.search.race else None,
                evaluated=evaluated,
                share=evaluated / total,
                spread=statistics.median(spreads) if spreads else None,
                first=_first(searched, stage, last=stage == len(survivors) - 1) if not run.config.search.race else None,
            )
        )
    return tuple(found)


def _first(batches: Sequence[Mapping[str, Any]], stage: int, last: bool) -> float | None:
    """How often a stage agreed with the one before on the best. Candidates come in the order of the stage before."""
    if stage == 0:
        return None
    agreed = []
    for before, batch in pairwise(batches):
        if batch["stage"] == stage and before["generation"] == batch["generation"]:
            children = batch["scores"][1 if last else 0 :]
            if len(children) > 1:
                agreed.append(ranked(children)[0] == 0)
    return statistics.fmean(agreed) if agreed else None


def _finite(batch: Mapping[str, Any]) -> list[float]:
    return [score for score in batch["scores"] if math.isfinite(score)]
