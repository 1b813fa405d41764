"""Starts meet the budget as closely as steps allow, and chance never decides how groups share it."""

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.search.starts.drawn import default_starts, random_start, random_starts

Toy = Callable[..., SearchSpace]


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_random_starts_fit_and_leave_no_step(
    spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    start = random_start(space, Random(seed))
    slack = space.budget - space.cost(start)
    assert slack >= 0
    assert all(own[level] > slack for own, level in zip(space.steps, start, strict=True) if level < len(own))


def test_integer_target_starts_uniform(toy: Toy) -> None:
    assert [start.levels for start in default_starts(toy(average="3"), Random(0))] == [("3",) * 6]


def test_other_targets_start_from_the_level_above(toy: Toy) -> None:
    space = toy(sizes=(1,) * 40, average="3.25", bits=(2, 3, 4, 5, 6))
    starts = default_starts(space, Random(0))
    assert len(set(starts)) == 32
    assert {level for start in starts for level in start.levels} == {"2", "3", "4"}
    assert all(space.cost(start) == space.budget for start in starts)


def test_the_split_between_groups_is_not_left_to_chance(toy: Toy) -> None:
    space = toy(sizes=(4,) * 10 + (12,) * 10, average="2.3", exchange="size")
    splits = {
        tuple(sum(space.costs[u][start[u]] for u in group) for group in space.groups)
        for start in (random_start(space, Random(seed)) for seed in range(30))
    }
    assert splits == {space.shares}
    small, big = space.shares
    assert abs(small / 40 - 2.3) <= 0.1
    assert abs(big / 120 - 2.3) <= 0.1


def test_fewer_starts_than_asked_for_end(toy: Toy) -> None:
    assert len(random_starts(toy(sizes=(1, 1), average="2.5"), 32, Random(0))) == 2
