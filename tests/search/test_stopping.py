"""What ends a search early, and that a resumed one ends in the same place."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.search import Evaluate, Evolution, Journal, Schedule, Stage, run_search
from evopress.search.stopping import Limits, Stopper

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]

GENERATION = 4 * 10 + 3 * 50
"""Tokens of one: four offspring, then two and their parent."""


def search(space: SearchSpace, generations: int = 50) -> Evolution:
    stages = (Stage(10, 2), Stage(50, 1))
    return Evolution(space, Random(0), Schedule(generations=generations, offspring=4, stages=stages))


class Clock:
    """Each scored batch takes a second."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def scoring(self, evaluate: Evaluate) -> Evaluate:
        def slow(profiles: object, tokens: int) -> list[float]:
            self.now += 1.0
            return evaluate(profiles, tokens)  # type: ignore[arg-type]

        return slow


@given(limit=st.integers(1, 5 * GENERATION), before=st.integers(0, 2 * GENERATION))
def test_tokens_are_never_exceeded_by_a_generation_of_known_cost(
    toy: Toy, fitness: Fitness, limit: int, before: int
) -> None:
    space = toy()
    stopper = Stopper(Limits(tokens=limit), tokens=before)
    ours = search(space)
    run_search(ours, fitness(space), stopper=stopper)
    room = limit - before
    done = (stopper.tokens - before) // GENERATION
    assert done == (0 if room < 1 else max(1, room // GENERATION))  # the first one's cost is not known before
    assert stopper.reason.startswith(f"the limit of {limit} tokens was reached after {stopper.tokens} tokens")


def test_time_is_kept_by_not_beginning_a_generation_that_would_exceed_it(toy: Toy, fitness: Fitness) -> None:
    space, clock = toy(), Clock()
    stopper = Stopper(Limits(seconds=9.5), seconds=2.0, clock=clock)
    run_search(search(space), clock.scoring(fitness(space)), stopper=stopper)
    assert clock.now == 106.0  # three generations of two batches: a fourth would end after 10 seconds
    assert stopper.reason == "the limit of 9.5 s was reached after 3 generations and 8 s"


def test_patience_counts_generations_in_a_row_that_keep_their_parent(toy: Toy, fitness: Fitness) -> None:
    space = toy()
    accepted: list[bool] = []
    stopper = Stopper(Limits(patience=3))
    run_search(
        search(space),
        fitness(space),
        on_batch=lambda result: None if result.accepted is None else accepted.append(result.accepted),
        stopper=stopper,
    )
    assert stopper.reason == "3 generations in a row kept their parent"
    assert accepted[-3:] == [False] * 3
    assert all(any(accepted[i : i + 3]) for i in range(len(accepted) - 3))
    assert any(accepted)


@pytest.mark.parametrize("limits", [Limits(tokens=5 * GENERATION), Limits(patience=2)])
def test_a_resumed_search_ends_where_the_first_one_would_have(
    toy: Toy, fitness: Fitness, tmp_path: Path, limits: Limits
) -> None:
    space = toy()

    def run(name: str, generations: int, limits: Limits) -> bytes:
        with Journal(tmp_path / name, seed=0, fingerprint={}) as journal:
            run_search(search(space, generations), fitness(space), journal, stopper=Stopper(limits))
        return (tmp_path / name).read_bytes()

    whole = run("whole", 50, limits)
    assert run("parts", 2, Limits()) != whole
    assert run("parts", 50, limits) == whole
    assert run("parts", 50, limits) == whole


def test_what_is_recorded_is_replayed_whatever_the_limit(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space, limits, bests = toy(), (Limits(), Limits(seconds=0.0)), []
    for limit in limits:
        with Journal(tmp_path / "journal", seed=0, fingerprint={}) as journal:
            bests.append(run_search(search(space, 6), fitness(space), journal, stopper=Stopper(limit)))
    assert bests[0] == bests[1]


def test_without_limits_all_generations_are_run(toy: Toy, fitness: Fitness) -> None:
    space, stopper = toy(), Stopper(Limits())
    run_search(search(space, 7), fitness(space), stopper=stopper)
    assert stopper.tokens == 7 * GENERATION
    assert not stopper.reason
