"""Uniform, best of N and brute force speak the same language as the search."""

from collections.abc import Callable
from random import Random

import pytest

from evopress.errors import ConfigError, ScheduleError
from evopress.search import BestOf, BruteForce, Evaluate, Knapsack, Strategy, Uniform, run_search
from evopress.search.brute_force import all_profiles
from evopress.space import SearchSpace

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


def test_brute_force_enumerates_exactly_what_fits(toy: Toy) -> None:
    space = toy(sizes=(1, 2, 3), average="3")
    every = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    assert list(all_profiles(space)) == [levels for levels in every if space.fits(levels)]


def test_brute_force_refuses_large_spaces_at_once(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="more than 10000 profiles"):
        BruteForce(toy(sizes=(1,) * 300), tokens=1)
    batch = BruteForce(toy(sizes=(1, 1)), tokens=1, limit=6).ask()
    assert batch is not None
    assert len(batch.profiles) == 6
