"""Every mutation gives another profile within the budget; each kind keeps its own promise."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.profile import Level, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.search import Evolution, Schedule, Stage
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import (
    Mutation,
    _flat,
    _run,
    _switches,
    _trade,
    bands,
    equal_switches,
    free_switches,
    mixed,
    roles,
    thirds,
)
from evopress.search.starts.drawn import random_start

ALL = {
    "equal": equal_switches,
    "free": free_switches,
    "bands": bands,
    "roles": roles,
    "thirds": thirds,
    "mixed": mixed(0.5),
}
Toy = Callable[..., SearchSpace]


@pytest.mark.parametrize("mutate", ALL.values(), ids=ALL)
@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_child_fits_and_differs(
    spaces: st.SearchStrategy[SearchSpace], mutate: Mutation, data: st.DataObject, seed: int
) -> None:
    space, rng = data.draw(spaces), Random(seed)
    parent = random_start(space, rng)
    for _ in range(5):
        child = mutate(space, parent, rng)
        if child is None:
            continue
        assert child != parent
        assert space.fits(child)
        assert all(0 <= level < len(unit.levels) for unit, level in zip(space.units, child, strict=True))
        parent = child


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_equal_switches_keep_every_groups_cost(
    spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int
) -> None:
    space, rng = data.draw(spaces), Random(seed)
    parent = random_start(space, rng)
    child = equal_switches(space, parent, rng)
    for group in space.groups if child else ():
        assert sum(space.costs[u][child[u]] - space.costs[u][parent[u]] for u in group) == 0  # type: ignore[index]


@pytest.mark.parametrize("mutate", [free_switches, bands], ids=["free", "bands"])
@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_no_affordable_step_is_left_inside_the_last_group(
    spaces: st.SearchStrategy[SearchSpace], mutate: Mutation, data: st.DataObject, seed: int
) -> None:
    space, rng = data.draw(spaces.filter(lambda space: len(space.groups) == 1)), Random(seed)
    child = mutate(space, random_start(space, rng), rng)
    if child is None:
        return
    slack = space.budget - space.cost(child)
    steps = [own[level] for own, level in zip(space.steps, child, strict=True) if level < len(own)]
    assert all(step > slack for step in steps)


def test_equal_switches_reach_their_neighbours_with_the_papers_probabilities(toy: Toy) -> None:
    space, rng, parent = toy(sizes=(1,) * 60), Random(0), (1,) * 60
    children = [equal_switches(space, parent, rng) or parent for _ in range(4000)]
    moved = Counter(sum(level != 1 for level in child) for child in children)
    assert moved[2] / 4000 == pytest.approx(5 / 9, abs=0.04)  # one switch; more of them rarely meet among 60 units
    assert moved[4] / 4000 == pytest.approx(3 / 9, abs=0.05)


def test_number_of_switches_is_the_minimum_of_two_draws() -> None:
    rng = Random(0)
    counts = Counter(_switches(rng) for _ in range(18_000))
    assert [counts[n] / 18_000 for n in (1, 2, 3)] == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.02)


def test_saturated_groups_are_drawn_again(toy: Toy) -> None:
    space = toy(sizes=(1, 1, 1, 1, 5, 5), average="46/14", exchange="size")
    parent = (2, 2, 2, 2, 1, 1)  # the first group is at its top and cannot exchange anything
    children = {equal_switches(space, parent, Random(seed)) for seed in range(50)}
    assert {(2, 2, 2, 2, 0, 2), (2, 2, 2, 2, 2, 0)} <= children
    assert children <= {(2, 2, 2, 2, 0, 2), (2, 2, 2, 2, 2, 0), None}  # None: two switches that undid each other


def test_free_switches_trade_between_sizes(toy: Toy) -> None:
    space, parent = toy(sizes=(1, 1, 1, 3), average="3"), (1, 1, 1, 1)
    children = {free_switches(space, parent, Random(seed)) for seed in range(300)}
    assert {(0, 0, 0, 2), (2, 2, 2, 0)} <= children


def test_free_switches_use_slack_that_the_parent_left(toy: Toy) -> None:
    space = toy()
    assert any(
        space.cost(free_switches(space, (0,) * 6, Random(seed)) or (0,) * 6) == space.budget for seed in range(9)
    )


@pytest.mark.parametrize("mutate", [equal_switches, free_switches], ids=["equal", "free"])
def test_a_switch_never_undoes_itself(toy: Toy, mutate: Mutation) -> None:
    """With two units one switch always leads away and the second always back, so only draws of two are lost: 3/9."""
    space, rng = toy(sizes=(1, 1)), Random(0)
    nothing = sum(mutate(space, (1, 1), rng) is None for _ in range(3000))
    assert nothing / 3000 == pytest.approx(3 / 9, abs=0.04)


def test_bands_move_a_whole_role(toy: Toy) -> None:
    space, parent = toy(sizes=(1,) * 12), (1,) * 12
    children = {bands(space, parent, Random(seed)) for seed in range(300)}
    assert (2, 0) * 6 in children
    assert (0, 2) * 6 in children


def test_bands_pay_by_single_units_where_a_group_has_one_role(toy: Toy) -> None:
    space = toy(sizes=(1, 5) * 4, exchange="size")  # role a in one group, b in the other
    children = [bands(space, (1,) * 8, Random(seed)) for seed in range(50)]
    assert any(children)


def test_runs_are_all_blocks_or_a_half_or_a_quarter_down_to_one() -> None:
    rng = Random(0)
    counts = Counter(len(_run([(i,) for i in range(30)], rng)) for _ in range(8000))
    assert set(counts) == {30, 15, 7, 3, 1}
    assert all(count / 8000 == pytest.approx(0.2, abs=0.03) for count in counts.values())


def test_mixed_is_all_bands_or_all_singles_at_the_ends(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6

    def first_draw_taken(mutate: Mutation, seed: int) -> tuple[int, ...] | None:
        rng = Random(seed)
        rng.random()  # what `mixed` draws to choose
        return mutate(space, parent, rng)

    for seed in range(20):
        assert mixed(1.0)(space, parent, Random(seed)) == first_draw_taken(bands, seed)
        assert mixed(0.0)(space, parent, Random(seed)) == first_draw_taken(free_switches, seed)


@pytest.mark.parametrize("mutate", ALL.values(), ids=ALL)
def test_a_space_without_other_profiles_gives_none(toy: Toy, mutate: Mutation) -> None:
    assert all(mutate(toy(sizes=(1,), average="3"), (1,), Random(seed)) is None for seed in range(20))


@given(st.integers(0, 10**6))
def test_one_trade_of_whole_roles_goes_as_far_as_the_smaller_allows(seed: int) -> None:
    """One role moves in all its blocks or is the limit of the other; nobody outside the two is lowered."""
    sizes = {"q": 9, "k": 3, "up": 24}
    units = [
        Unit(f"{block}.{role}", block, role, size, tuple(Level(str(bits), bits * size) for bits in (2, 3, 4)))
        for block in range(4)
        for role, size in sizes.items()
    ]
    space = make_space(units, average=3, exchange="any")
    parent = space.encode(space.uniform())
    draft = Draft(space, parent)
    assert _trade(draft, space, Random(seed), _flat)
    child = draft.levels
    assert draft.fits
    lowered = Counter(space.units[i].role for i in range(12) if child[i] < parent[i])
    raised = Counter(space.units[i].role for i in range(12) if child[i] > parent[i])
    assert len(lowered) == 1
    assert max(*lowered.values(), *raised.values()) >= 3  # of 4 blocks; rounding may give one back


def test_thirds_move_roles_in_the_first_the_middle_or_the_last_blocks(toy: Toy) -> None:
    space, rng = toy(sizes=(1,) * 18), Random(0)  # nine blocks
    moved: set[tuple[int, ...]] = set()
    for _ in range(400):
        child = thirds(space, (1,) * 18, rng)
        if child is not None:
            raised = [space.units[i].block // 3 for i in range(18) if child[i] > 1]
            moved.add(tuple(sorted(set(raised))))
            assert len(raised) >= 2
    assert {(0,), (1,), (2,)} <= moved


def test_a_coarse_search_goes_from_roles_to_thirds(toy: Toy) -> None:
    space = toy(sizes=(1,) * 18)
    search = Evolution(
        space, Random(0), Schedule(generations=6, offspring=6, stages=[Stage(1, 1)]), coarse_generations=6
    )
    widest: dict[int, int] = {}
    while (batch := search.ask()) is not None:
        parent, *children = map(space.encode, batch.profiles)
        moved = [sum(a != b for a, b in zip(parent, child, strict=True)) for child in children]
        widest[batch.generation] = min(moved)
        search.tell([float(i) for i in range(len(batch.profiles))])  # the parent stays
    assert all(widest[generation] == 18 for generation in (1, 2, 3, 4))
    assert all(widest[generation] < 18 for generation in (5, 6))


def test_a_search_opens_with_whole_roles_and_goes_on_when_they_are_exhausted(toy: Toy) -> None:
    space = toy(sizes=(1,) * 12)
    stages = [Stage(1, 1)]
    coarse = Evolution(space, Random(0), Schedule(generations=1, offspring=4, stages=stages), coarse_generations=1)
    batch = coarse.ask()
    assert batch is not None
    assert {profile.levels for profile in batch.profiles[1:]} == {("4", "2") * 6, ("2", "4") * 6}
    levels = (Level("2", 2), Level("3", 3), Level("4", 4))
    one_role = make_space([Unit(f"u{i}", i, "a", 1, levels) for i in range(6)], average=3, exchange="any")
    usual = Evolution(one_role, Random(0), Schedule(generations=1, offspring=4, stages=stages), coarse_generations=1)
    batch = usual.ask()
    assert batch is not None
    assert len(batch.profiles) == 5
