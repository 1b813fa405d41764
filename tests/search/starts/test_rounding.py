"""Wishes become profiles within the budget, near to what was wished."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.search.baselines.brute_force import all_profiles
from evopress.search.starts.rounding import nearest

Toy = Callable[..., SearchSpace]


def wishes(data: st.DataObject, space: SearchSpace) -> list[float]:
    return [data.draw(st.floats(-0.5 * unit.size, 20.0 * unit.size)) for unit in space.units]


@pytest.mark.parametrize("kind", ["spaces", "depths", "sparsities"])
@given(data=st.data())
def test_fits_and_leaves_no_step(request: pytest.FixtureRequest, kind: str, data: st.DataObject) -> None:
    space = data.draw(request.getfixturevalue(kind))
    levels = nearest(space, wishes(data, space))
    assert space.fits(levels)
    for units, most in space.limits:
        left = most - sum(space.costs[unit][levels[unit]] for unit in units)
        assert all(space.steps[unit][levels[unit]] > left for unit in units if levels[unit] < len(space.steps[unit]))


@pytest.mark.parametrize("kind", ["spaces", "depths", "sparsities"])
@given(data=st.data())
def test_a_wish_that_can_be_met_is_met(request: pytest.FixtureRequest, kind: str, data: st.DataObject) -> None:
    space = data.draw(request.getfixturevalue(kind).filter(lambda space: space.n_profiles <= 3000))
    wished = data.draw(st.sampled_from(list(all_profiles(space, full=True))))
    noise = [data.draw(st.floats(-0.4, 0.4)) for _ in space.units]
    costs = [own[level] + by for own, level, by in zip(space.costs, wished, noise, strict=True)]
    assert nearest(space, costs) == wished


@given(data=st.data())
def test_with_equal_steps_nothing_is_nearer(sparsities: st.SearchStrategy[SearchSpace], data: st.DataObject) -> None:
    """Convex distances and equal steps: one level at a time is optimal."""
    space = data.draw(sparsities.filter(lambda space: space.n_profiles <= 3000))
    wished = wishes(data, space)

    def distance(levels: tuple[int, ...]) -> float:
        pairs = zip(space.units, space.costs, levels, wished, strict=True)
        return sum((costs[level] - wish) ** 2 / unit.size for unit, costs, level, wish in pairs)

    best = min(map(distance, all_profiles(space, full=True)))
    assert distance(nearest(space, wished)) == pytest.approx(best)


def test_ties_go_to_the_cheaper_level_and_the_first_unit(toy: Toy) -> None:
    assert nearest(toy(sizes=(1, 1), average="3"), [2.5, 3.5]) == (1, 1)  # nearest 2 and 3: one step is left, the first
    assert nearest(toy(sizes=(1, 1, 1, 1), average="2.5"), [2.75] * 4) == (0, 0, 1, 1)
