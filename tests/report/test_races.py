"""What the report says of a race's losers is what somebody says who knows which profile had which score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
from tests.conftest import SMALL

import evopress
from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import make_space
from evopress.report import RunData, read_data
from evopress.report.history import generations
from evopress.search import Evolution, Schedule, Stage, run_search
from evopress.search.racing import STANDARD
from evopress.search.types import BatchResult


class Text:
    """Scores with noise that belongs to profile and text, on texts that differ much."""

    calls = 0

    def __call__(self, profiles: Sequence[Profile], tokens: int) -> list[float]:
        self.calls += 1
        return [self._score(profile, f"fresh {self.calls}") for profile in profiles]

    def reread(self, profiles: Sequence[Profile], tokens: int, part: int) -> list[float]:
        return [self._score(profile, f"part {part}") for profile in profiles]

    def _score(self, profile: Profile, text: str) -> float:
        lost = sum((i + 1) * (4 - int(level)) ** 2 for i, level in enumerate(profile.levels))
        return lost / 20 + 10 * Random(text).random() + Random(f"{text} {profile.levels}").gauss(0, 0.3)


@pytest.fixture(scope="module")
def run(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """A run with races on a pico model."""
    out = tmp_path_factory.mktemp("raced") / "run"
    settings = SMALL | {"race": True, "tokens_per_stage": (32, 128)}
    evopress.quantize(str(checkpoint), data=str(text), out=out, **settings)
    return read_data(out)


def raced(units: int, seed: int) -> list[BatchResult]:
    """A search with races, from best to best."""
    levels = tuple(Level(str(bits), bits) for bits in (2, 3, 4))
    space = make_space([Unit(f"u{i}", i, "a", 1, levels) for i in range(units)], average="3", exchange="any")
    seen = list[BatchResult]()
    stages = (Stage(64, 3), Stage(1024, 1))
    ours = Evolution(space, Random(seed), Schedule(generations=30, offspring=6, stages=stages), race=STANDARD)
    run_search(ours, Text(), on_batch=seen.append)
    return seen


def as_read(run: RunData, seen: Sequence[BatchResult]) -> RunData:
    """A run whose journal is that of this search, without a record of its progress."""
    search = run.config.search.model_copy(update={"race": True, "survivors": (3, 1), "offspring": 6})
    batches = tuple(
        {name: getattr(one.batch, name) for name in ("generation", "stage", "tokens")}
        | {"scores": list(one.scores)}
        | ({} if one.batch.part is None else {"part": one.batch.part})
        for one in seen
    )
    config = run.config.model_copy(update={"search": search})
    return dataclasses.replace(run, config=config, batches=batches, progress=())


def expected(seen: Sequence[BatchResult], generation: int) -> tuple[Any, ...] | None:
    """The end of a generation told from profiles; None where the parent has beaten one of the children before."""
    parent = [one.best for one in seen if one.batch.generation < generation][-1]
    drawn, *race = [one for one in seen if one.batch.generation == generation]
    ranks = sorted(range(len(drawn.scores)), key=lambda i: drawn.scores[i])[:3]
    children = [drawn.batch.profiles[i] for i in ranks]
    if not race or not set(children) <= set(race[0].batch.profiles) or race[0].batch.stage != 1:
        return None
    known = {
        (one.batch.part, profile): score
        for one in seen
        if one.batch.part is not None and one.batch.generation <= generation
        if one.batch.part >= (race[0].batch.part or 0)  # on an earlier parent's text others may have met before
        for profile, score in zip(one.batch.profiles, one.scores, strict=True)
    }
    end = race[-1]
    rejected = []
    for loser in [parent, *children]:
        both = [part for part, profile in known if profile == loser and (part, end.best) in known]
        if loser != end.best:
            rejected.append(end.score + fmean(known[part, loser] - known[part, end.best] for part in both))
    return end.accepted, end.score, rejected


@pytest.mark.parametrize(("units", "seed"), [(40, 0), (40, 1), (5, 2), (8, 3)])
def test_losers_of_races_stand_where_their_differences_say(run: RunData, units: int, seed: int) -> None:
    seen = raced(units, seed)
    told = generations(as_read(run, seen))
    below = 0
    for one in told[1:]:
        truth = expected(seen, one.number)
        if truth is None:
            assert (one.accepted, one.fitness, one.rejected) == (None, None, ())
            continue
        assert (one.accepted, one.fitness) == truth[:2]
        assert one.rejected == pytest.approx(truth[2], abs=1e-9)
        assert len(one.rejected) == 3
        below += sum(score < one.fitness - 2 for score in one.rejected)
    unknown = sum(one.fitness is None for one in told)
    assert 0 < unknown < 28 if units < 9 else unknown < 3
    assert not below, "texts differ by up to 10, what wins and loses on one text by little"


def test_the_page_of_a_run_with_races(run: RunData) -> None:
    known, told = generations(run), generations(dataclasses.replace(run, progress=()))
    assert [one.rejected for one in told] == [one.rejected for one in known]
    for one, certain in zip(told, known, strict=True):
        if one.accepted is not None:
            assert (one.accepted, one.fitness) == (certain.accepted, pytest.approx(certain.fitness))
    assert any(one.rejected for one in told)
    assert "than noise" in (run.path / "report.html").read_text()
