"""Pre-selection and learning moves keep every promise of the search that they plug into."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search import (
    PRESETS,
    BatchResult,
    Evaluate,
    Evolution,
    Journal,
    Schedule,
    Stage,
    free_switches,
    make_mutation,
    run_search,
)
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves
from evopress.search.preselect import Preselect
from evopress.search.starts.drawn import default_starts
from evopress.search.surrogate import Surrogate

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]


SCHEDULE = {"generations": 5, "offspring": 4, "stages": (Stage(1, 2), Stage(2, 1))}


def make(
    space: SearchSpace, seed: int = 3, start_candidates: int = 32, coarse_generations: int = 0, **schedule: object
) -> tuple[Evolution, Preselect]:
    preselect, rng = Preselect(Surrogate(space), pool=3), Random(seed)
    search = Evolution(
        space,
        rng,
        Schedule(**SCHEDULE | schedule),  # type: ignore[arg-type]
        mutate=AdaptiveMoves(default_moves()),
        coarse_generations=coarse_generations,
        start=default_starts(space, rng, start_candidates),
        preselect=preselect,
    )
    return search, preselect


def test_paper_mode_is_untouched(toy: Toy, fitness: Fitness) -> None:
    """The digests were taken before there were learners."""
    for exchange, digest in (("size", "e732577e453deb00"), ("any", "8d29d3fbd89e221e")):
        space = toy(sizes=(1, 2, 1, 2, 1, 2, 3, 3), average="3", exchange=exchange)
        paper = PRESETS["bits"]["paper"]
        schedule = Schedule(generations=6, offspring=12, stages=(Stage(1, 4), Stage(2, 2), Stage(4, 1)))
        seen = hashlib.sha256()

        def watch(result: BatchResult, seen: "hashlib._Hash" = seen) -> None:
            seen.update(repr([result.batch.tokens, [p.levels for p in result.batch.profiles]]).encode())

        search = Evolution(space, Random(5), schedule, mutate=make_mutation(paper.mutation))
        run_search(search, fitness(space), on_batch=watch)
        assert seen.hexdigest()[:16] == digest


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_no_duplicates_no_parents_within_the_budget(
    spaces: st.SearchStrategy[SearchSpace], fitness: Fitness, data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    search, _ = make(space, seed, coarse_generations=data.draw(st.integers(0, 2)))
    parent = search.best
    seen: list[BatchResult] = []
    run_search(search, fitness(space), on_batch=seen.append)
    for result in seen:
        profiles = result.batch.profiles
        assert len(set(profiles)) == len(profiles) <= 32
        assert all(space.fits(profile) for profile in profiles)
        if result.batch.generation and result.batch.stage == 0:
            assert parent not in profiles
            assert len(profiles) <= 4
        if result.accepted is not None:
            parent = result.best


def test_resume_from_every_line_equals_the_uninterrupted_run(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space = toy(sizes=(1, 2, 1, 3, 1, 2, 1, 2), average="2.75")

    def run(path: Path) -> tuple[object, ...]:
        search, preselect = make(space, start_candidates=4)
        with Journal(path, seed=3, fingerprint={}) as journal:
            best = run_search(search, fitness(space), journal)
        model = preselect.surrogate
        return (
            best,
            path.read_bytes(),
            model.mean.tolist(),
            model.variance.tolist(),
            search._mutate.shares(),
        )  # type: ignore[attr-defined]

    whole = run(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert len(lines) == 12  # header, start candidates, 5 generations of 2 stages
    for count in range(1, len(lines) + 1):
        path = tmp_path / f"cut{count}"
        path.write_bytes(b"".join(lines[:count]))
        assert run(path) == whole


def test_a_space_that_is_used_up_ends_cleanly(toy: Toy, fitness: Fitness) -> None:
    tiny = toy(sizes=(1, 1))
    search, _ = make(tiny, offspring=50, stages=(Stage(1, 1),))
    run_search(search, fitness(tiny))
    assert not search.stopped
    alone = toy(sizes=(1,))
    search, _ = make(alone)
    run_search(search, fitness(alone))
    assert "found no profile besides its parent" in search.stopped


def test_it_keeps_the_blind_and_the_promising(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6
    effects = np.array([[0.0, 0.0, 0.0]] * 4 + [[3.0, 0.0, -3.0]] + [[0.2, 0.0, -0.2]])
    children = [(1, 1, 1, 1, 0, 2), (2, 1, 1, 1, 0, 1), (0, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 0), (0, 1, 1, 1, 2, 1)]
    choose = Preselect(Surrogate(space, effects), blind=0.5)
    assert choose.keep(parent, children, 2) == [children[0], children[4]]
    assert choose.keep(parent, children, 4) == [children[0], children[1], children[4], children[3]]
    assert choose.keep(parent, children, 9) == children
    none_blind = Preselect(Surrogate(space, effects), blind=0.0)
    assert none_blind.keep(parent, children, 1) == [children[4]]
    assert Preselect(Surrogate(space, effects), blind=1.0).keep(parent, children, 2) == children[:2]


def test_a_right_surrogate_needs_fewer_generations(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,) * 40, average="3")
    scored: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        evaluate = fitness(space, seed=seed)
        for chosen in (False, True):
            preselect = Preselect(Surrogate(space, noise_tokens=1), pool=8) if chosen else None
            search = Evolution(
                space,
                Random(seed),
                Schedule(generations=15, offspring=8, stages=(Stage(4, 1),)),
                mutate=free_switches,
                preselect=preselect,
            )
            run_search(search, evaluate)
            scored[chosen].append(search.score)
    assert all(ours < theirs for ours, theirs in zip(scored[True], scored[False], strict=True))


def test_bad_settings_are_named(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="pool is 0 times"):
        Preselect(Surrogate(toy()), pool=0)
    with pytest.raises(ConfigError, match=r"blind is 1\.5"):
        Preselect(Surrogate(toy()), blind=1.5)
