"""The knapsack is exact where it says so, and within the budget everywhere."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ProfileError
from evopress.search import knapsack
from evopress.search.baselines.brute_force import all_profiles

Toy = Callable[..., SearchSpace]
Table = dict[str, dict[str, float]]


def random_errors(space: SearchSpace, seed: int) -> Table:
    """Errors that need not fall with the level."""
    rng = Random(seed)
    return {unit.name: {level.name: rng.random() for level in unit.levels} for unit in space.units}


def total(errors: Table, profile: Profile) -> float:
    return sum(errors[unit][level] for unit, level in profile.items())


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_equals_brute_force(spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int) -> None:
    space = data.draw(spaces.filter(lambda space: space.n_profiles <= 2000))
    errors = random_errors(space, seed)
    found = knapsack(space, errors)
    assert space.fits(found)
    assert total(errors, found) == pytest.approx(min(total(errors, space.decode(p)) for p in all_profiles(space)))


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_split_budget_too(depths: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int) -> None:
    space = data.draw(depths.filter(lambda space: space.n_profiles <= 2000))
    errors = random_errors(space, seed)
    found = knapsack(space, errors)
    assert space.fits(found)
    assert total(errors, found) == pytest.approx(min(total(errors, space.decode(p)) for p in all_profiles(space)))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 10**6), cells=st.integers(1, 60))
def test_a_coarse_table_stays_within_the_budget(
    spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int, cells: int
) -> None:
    space = data.draw(spaces)
    assert space.fits(knapsack(space, random_errors(space, seed), max_cells=cells))


def awkward_space(n: int) -> SearchSpace:
    """Real sizes, with costs whose greatest common divisor is 1."""
    sizes = (110_592, 331_776, 884_736)
    units = [
        Unit(f"u{i}", i, "q", size, tuple(Level(str(b), b * size + size // 64 * (16 + b) + i) for b in (2, 3, 4, 5, 6)))
        for i, size in ((i, sizes[i % 3]) for i in range(n))
    ]
    units[0] = Unit("u0", 0, "q", 7, tuple(Level(str(b), 7 * b + b * (b + 1) // 2) for b in (2, 3, 4, 5, 6)))
    return make_space(units, average="3.4567", exchange="any")


def test_a_coarse_table_comes_close_to_the_lower_bound() -> None:
    space = awkward_space(120)
    rng = Random(0)
    scale = {unit.name: rng.lognormvariate(0, 1) for unit in space.units}
    errors = {u.name: {level.name: scale[u.name] * 4.0 ** -int(level.name) for level in u.levels} for u in space.units}
    assert math.gcd(*(step for steps in space.steps for step in steps)) == 1
    found = knapsack(space, errors, max_cells=100_000)
    assert space.fits(found)
    assert total(errors, found) <= 1.005 * relaxed_optimum(space, errors)


def relaxed_optimum(space: SearchSpace, errors: Table) -> float:
    """A lower bound: with convex errors, buy the best error per cost and allow a fraction of the last step."""
    steps = []
    for unit in space.units:
        for low, high in pairwise(unit.levels):
            steps.append((errors[unit.name][low.name] - errors[unit.name][high.name], high.cost - low.cost))
    bound, room = sum(errors[unit.name][unit.levels[0].name] for unit in space.units), space.budget - space.lowest
    for gain, cost in sorted(steps, key=lambda step: -step[0] / step[1]):
        taken = min(cost, room)
        bound, room = bound - gain * taken / cost, room - taken
    return bound


def test_errors_that_are_not_finite_are_avoided(toy: Toy) -> None:
    space = toy(sizes=(1, 1), average="3")
    errors = {"u0": {"2": 0.5, "3": math.nan, "4": math.inf}, "u1": {"2": 9.0, "3": 1.0, "4": 0.0}}
    assert knapsack(space, errors).levels == ("2", "4")


def test_missing_errors(toy: Toy) -> None:
    space = toy(sizes=(1,), average="3")
    for errors in ({}, {"u0": {"2": 1.0, "3": 1.0}}):
        with pytest.raises(ProfileError, match="unit u0: no error is known for"):
            knapsack(space, errors)
    with pytest.raises(ProfileError, match="none of its 3 levels has a finite error"):
        knapsack(space, {"u0": dict.fromkeys("234", math.nan)})


def test_a_budget_above_the_highest_cost_is_fine(toy: Toy) -> None:
    space = SearchSpace(toy().units, 10**12, toy().groups)
    errors = {unit.name: {"2": 3.0, "3": 2.0, "4": 1.0} for unit in space.units}
    assert knapsack(space, errors).levels == ("4",) * 6
