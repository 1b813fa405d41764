"""Uniform, best of N and brute force speak the same language as the search."""

from collections.abc import Callable
from random import Random

import pytest

from evopress.core.space import SearchSpace
from evopress.errors import ScheduleError
from evopress.search import BestOf, BruteForce, Evaluate, Knapsack, Strategy, Uniform, run_search

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]


def test_every_baseline_runs_as_a_strategy(toy: Toy, fitness: Fitness) -> None:
    space = toy(average="2.5")
    evaluate = fitness(space)
    errors = {unit.name: {level.name: 1.0 / level.cost for level in unit.levels} for unit in space.units}
    strategies: list[Strategy] = [
        Uniform(space, tokens=3),
        BestOf(space, Random(0), count=9, tokens=3),
        Knapsack(space, errors, tokens=3),
        BruteForce(space, tokens=3),
    ]
    for strategy in strategies:
        best = run_search(strategy, evaluate)
        assert space.fits(best)
        assert strategy.score == evaluate([best], 3)[0]
        assert strategy.accepted
        assert not strategy.stopped
        assert strategy.ask() is None
    uniform, best_of, _, exhaustive = (strategy.score for strategy in strategies)
    assert exhaustive <= best_of < uniform


def test_best_of_keeps_the_best(toy: Toy) -> None:
    search = BestOf(toy(average="2.5"), Random(0), count=5, tokens=3)
    batch = search.ask()
    assert batch is not None
    assert len(set(batch.profiles)) == 5
    search.tell([3.0, 2.0, float("nan"), 1.0, 4.0])
    assert (search.best, search.score) == (batch.profiles[3], 1.0)
    with pytest.raises(ScheduleError, match="best of 0"):
        BestOf(toy(), Random(0), count=0, tokens=3)
