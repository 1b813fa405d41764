"""Starts from sensitivities: within the budget, driven by the numbers, and closer to the expansion for larger gamma."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import BudgetError, ProfileError
from evopress.search.starts.sensitivity import expansion_point, sensitivity_starts

Toy = Callable[..., SearchSpace]
Table = dict[str, dict[str, float]]


def tables(space: SearchSpace, seed: int = 0) -> tuple[Table, Table]:
    """Random slopes, and curvatures that grow with the distance from the expansion point."""
    rng, parent = Random(seed), dict(expansion_point(space).items())
    slope: Table = {}
    curvature: Table = {}
    for unit in space.units:
        steps = {level.name: i - unit.index(parent[unit.name]) for i, level in enumerate(unit.levels)}
        tilt, bend = rng.gauss(0, 1), rng.uniform(0.1, 1)
        slope[unit.name] = {level: tilt * step for level, step in steps.items()}
        curvature[unit.name] = {level: bend * step**2 for level, step in steps.items()}
    return slope, curvature


@pytest.mark.parametrize(
    ("average", "level"), [("2", "2"), ("2.5", "3"), ("3", "3"), ("3.2", "4"), ("4", "4")], ids=str
)
def test_the_expansion_is_around_the_uniform_profile_at_or_above_the_budget(toy: Toy, average: str, level: str) -> None:
    assert expansion_point(toy(average=average)).levels == (level,) * 6


def test_a_budget_above_every_uniform_profile_expands_around_the_dearest() -> None:
    own = (Unit("a", 0, "a", 1, (Level("2", 2), Level("3", 3))), Unit("b", 0, "b", 1, (Level("2", 2), Level("9", 9))))
    assert expansion_point(make_space(own, average=6, exchange="any")).levels == ("2", "2")


def test_units_without_a_common_level_have_no_expansion_point() -> None:
    units = (Unit("a", 0, "a", 1, (Level("2", 2),)), Unit("b", 0, "b", 1, (Level("3", 3),)))
    with pytest.raises(BudgetError, match="the 2 units have no level in common"):
        expansion_point(make_space(units, average="5/2", exchange="any"))


def test_a_planted_insensitive_unit_is_compressed_most(toy: Toy) -> None:
    space = toy()
    slope, curvature = tables(space)
    for unit in space.names:
        slope[unit] = {"2": 0.0, "3": 0.0, "4": 0.0}
        curvature[unit] = {"2": 1.0, "3": 0.0, "4": 0.0}
    curvature["u2"] = {"2": 0.0, "3": 0.0, "4": 0.0}
    slope["u4"] = {"2": 5.0, "3": 0.0, "4": -5.0}
    for start in sensitivity_starts(space, slope, curvature):
        assert (start["u2"], start["u4"]) == ("2", "4")
        assert space.cost(start) == space.budget


@given(data=st.data(), seed=st.integers(0, 100))
def test_starts_fit_and_are_different(spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int) -> None:
    space = data.draw(spaces)
    if not space.uniforms():
        return
    starts = sensitivity_starts(space, *tables(space, seed))
    assert 1 <= len(starts) <= 4
    assert len(set(starts)) == len(starts)
    assert all(space.fits(start) for start in starts)


def test_a_larger_gamma_stays_closer_to_the_expansion(toy: Toy) -> None:
    space = toy(sizes=(1,) * 20, bits=(2, 3, 4, 5, 6))
    slope, curvature = tables(space)
    parent = space.encode(expansion_point(space))
    far, near = (
        sum(abs(a - b) for a, b in zip(space.encode(start), parent, strict=True))
        for gamma in (0.3, 10.0)
        for start in sensitivity_starts(space, slope, curvature, (gamma,))
    )
    assert near < far


def test_equal_starts_are_given_once(toy: Toy) -> None:
    space = toy()
    slope, curvature = tables(space)
    assert len(sensitivity_starts(space, slope, curvature, (1.0, 1.0, 1.0))) == 1


def test_levels_that_broke_are_avoided_and_missing_ones_refused(toy: Toy) -> None:
    space = toy()
    slope, curvature = tables(space)
    slope["u1"]["2"] = float("nan")
    curvature["u3"]["4"] = float("inf")
    for start in sensitivity_starts(space, slope, curvature):
        assert start["u1"] != "2"
        assert start["u3"] != "4"
    del slope["u0"]["3"]
    with pytest.raises(ProfileError, match="unit u0: no error is known for '3'"):
        sensitivity_starts(space, slope, curvature)
