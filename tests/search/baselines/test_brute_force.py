"""The count is known before anything is made, and what is made is exactly what was counted."""

import math
from collections.abc import Callable
from itertools import product
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ConfigError, ScheduleError
from evopress.search import BruteForce, Effort, Evaluate, count_profiles, run_search
from evopress.search.baselines.brute_force import all_profiles

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]


def is_full(space: SearchSpace, levels: tuple[int, ...]) -> bool:
    """The definition: raising any one unit by a level does not fit."""
    raised = (
        (*levels[:unit], level + 1, *levels[unit + 1 :])
        for unit, level in enumerate(levels)
        if level + 1 < len(space.costs[unit])
    )
    return not any(space.fits(other) for other in raised)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ["spaces", "depths", "sparsities"])
@given(data=st.data())
def test_the_count(request: pytest.FixtureRequest, kind: str, full: bool, data: st.DataObject) -> None:
    space = data.draw(request.getfixturevalue(kind).filter(lambda space: space.n_profiles <= 3000))
    every = product(*(range(len(unit.levels)) for unit in space.units))
    expected = [levels for levels in every if space.fits(levels) and (not full or is_full(space, levels))]
    found = list(all_profiles(space, full=full))
    assert sorted(found) == expected
    assert count_profiles(space, full=full) == len(expected)
    if space.split is None:
        assert found == expected, "lexicographic"


@pytest.mark.parametrize("k", range(1, 15))
def test_pairs_of_blocks(drops: Toy, k: int) -> None:
    space = drops(blocks=30, k=k, kind="pair")
    search = BruteForce(space, tokens=2048)
    assert search.effort == Effort(math.comb(15, k), 2048)
    batch = search.ask()
    assert batch is not None
    assert len(set(batch.profiles)) == math.comb(15, k)
    assert all(profile.levels.count("drop") == k for profile in batch.profiles)


def test_sublayers_are_counted_for_each_kind_by_itself(drops: Toy, fitness: Fitness) -> None:
    space = drops(blocks=6, k=2)
    search = BruteForce(space, tokens=1)
    assert search.effort.profiles == math.comb(6, 2) ** 2
    best = run_search(search, fitness(space))
    assert fitness(space)([best], 1)[0] == min(fitness(space)([space.decode(p) for p in all_profiles(space)], 1))


def test_profiles_that_leave_budget_unspent_can_be_taken_in(drops: Toy) -> None:
    space = drops(blocks=5, k=2, kind="block")
    assert BruteForce(space, tokens=1).effort.profiles == 10
    assert BruteForce(space, tokens=1, full=False).effort.profiles == 10 + 10 + 5 + 1


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"blocks": 32, "k": 16, "kind": "block"}, str(math.comb(32, 16))),
        ({"blocks": 30, "k": 10}, r"about 10\^14"),
        ({"blocks": 80, "k": 40}, r"about 10\^46"),
    ],
)
def test_large_spaces_are_refused_at_once_with_their_count(drops: Toy, options: dict[str, int], shown: str) -> None:
    started = perf_counter()
    with pytest.raises(ScheduleError, match=f"^{shown} profiles meet the budget, .* at most 10000; "):
        BruteForce(drops(**options), tokens=1)
    assert perf_counter() - started < 2


def test_odd_costs_are_not_counted_but_refused_all_the_same(toy: Toy) -> None:
    units = [
        Unit(f"u{i}", i, "u", 10**9 + i * i, (Level("2", 10**9), Level("3", 2 * 10**9 + i * i))) for i in range(40)
    ]
    space = make_space(units, average="1.5", exchange="any")
    assert count_profiles(space) is None
    with pytest.raises(ScheduleError, match="more than 10000 profiles meet the budget"):
        BruteForce(space, tokens=1, full=False)
    few = make_space(units[:3], average="1.5", exchange="any")
    assert count_profiles(few) is None
    assert BruteForce(few, tokens=1).effort.profiles == 3
    with pytest.raises(ConfigError, match="more than 2 profiles"):
        BruteForce(few, tokens=1, limit=2)


def test_as_many_as_the_limit_are_scored(toy: Toy) -> None:
    space = toy(sizes=(1, 1))
    assert BruteForce(space, tokens=1, limit=3).effort.profiles == 3
    with pytest.raises(ScheduleError, match="3 profiles meet the budget, brute force scores at most 2"):
        BruteForce(space, tokens=1, limit=2)


def test_effort_in_words() -> None:
    assert Effort(3, 10).text() == "3 profiles on 10 tokens each, 30 tokens"
    times = {1: "10 s", 71: "12 min", 410: "1 h 8 min", 40000: "4 d 15 h"}
    for profiles, shown in times.items():
        assert Effort(profiles, 100).text(10).endswith(f": about {shown} at 10 tokens a second")
        assert Effort(profiles, 100).seconds(10) == profiles * 10
