"""Spaces whose levels are drop and keep need no search of their own: exactly k of each kind, from the first mask on."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import BudgetError, ProfileError
from evopress.search import (
    Evaluate,
    Evolution,
    Mutation,
    Schedule,
    Stage,
    bands,
    equal_switches,
    free_switches,
    mixed,
    run_search,
)
from evopress.search.moves.mutation import roles
from evopress.search.starts.drawn import default_starts, random_start, random_starts

Drops = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]
ALL = {"equal": equal_switches, "free": free_switches, "bands": bands, "roles": roles, "mixed": mixed(0.5)}


def dropped(space: SearchSpace, profile: Profile) -> Counter[str]:
    """How many units of each role are dropped."""
    return Counter(unit.role for unit in space.units if profile[unit.name] == "drop")


@pytest.mark.parametrize("mutate", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    "options",
    [
        {"exchange": "role"},
        {"exchange": "size"},
        {"exchange": "role", "weights": (4, 4)},  # equally large: only the role tells them apart
        {"exchange": "role", "protected": ["0.attn", "1.attn", "2.attn", "5.mlp"]},
        {"exchange": "role", "count": True},
        {"exchange": "size", "count": True},
    ],
    ids=["role", "size", "twins", "protected", "role-count", "size-count"],
)
def test_a_search_drops_exactly_k_of_each_kind(
    drops: Drops, fitness: Fitness, options: dict[str, object], mutate: Mutation
) -> None:
    space = drops(blocks=8, k=3, **options)
    search = Evolution(
        space, Random(0), Schedule(generations=6, offspring=6, stages=[Stage(1, 2), Stage(2, 1)]), mutate=mutate
    )
    counts: list[Counter[str]] = []
    run_search(
        search,
        fitness(space),
        on_batch=lambda result: counts.extend(dropped(space, profile) for profile in result.batch.profiles),
    )
    assert len(counts) > 40
    assert all(count == {"attn": 3, "mlp": 3} for count in counts)


@pytest.mark.parametrize("mutate", ALL.values(), ids=ALL)
def test_whole_blocks_and_pairs_too(drops: Drops, mutate: Mutation) -> None:
    for kind, count in (("block", 8), ("pair", 4)):
        space, rng = drops(blocks=8, k=3, kind=kind), Random(0)
        parent = random_start(space, rng)
        children = {mutate(space, parent, rng) for _ in range(60)} - {None}
        assert len(space.units) == count
        assert children
        assert all(sum(level == 0 for level in child or ()) == 3 for child in children)


def test_fewer_of_one_kind_than_of_the_other_is_met_by_the_role_alone(drops: Drops) -> None:
    """Many protected attentions: in proportion to what may be dropped, other numbers than 4 and 4 would come out."""
    protected = [f"{block}.attn" for block in range(5)]
    by_size, by_role = (drops(10, 4, exchange=exchange, protected=protected) for exchange in ("size", "role"))
    assert dropped(by_role, by_role.decode(random_start(by_role, Random(0)))) == {"attn": 4, "mlp": 4}
    assert dropped(by_size, by_size.decode(random_start(by_size, Random(0)))) != {"attn": 4, "mlp": 4}


def test_starts_are_random_masks(drops: Drops) -> None:
    space = drops(blocks=12, k=4, protected=["3.mlp"])
    masks = default_starts(space, Random(0), 64)
    assert len(set(masks)) == 64
    masks = random_starts(space, 2000, Random(0))
    often = Counter(name for mask in masks for name, level in mask.items() if level == "drop")
    assert often.pop("3.mlp", 0) == 0
    assert all(often[f"{block}.attn"] / 2000 == pytest.approx(4 / 12, abs=0.05) for block in range(12))
    assert all(often[f"{block}.mlp"] / 2000 == pytest.approx(4 / 11, abs=0.05) for block in range(12) if block != 3)


def test_a_space_of_few_masks_yields_them_all(drops: Drops) -> None:
    assert len(default_starts(drops(blocks=4, k=1), Random(0), 64)) == 16


@given(data=st.data(), seed=st.integers(0, 10**6), mutate=st.sampled_from(list(ALL.values())))
def test_every_mask_costs_the_budget_where_that_can_be(
    depths: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int, mutate: Mutation
) -> None:
    space, rng = data.draw(depths), Random(seed)
    parent = random_start(space, rng)
    even = len({step for steps in space.steps for step in steps}) == 1 or space.split
    assert space.cost(parent) == space.budget if even else space.fits(parent)
    for _ in range(5):
        child = mutate(space, parent, rng)
        if child is not None:
            assert space.cost(child) == space.budget if even else space.fits(child)
            assert child != parent
            parent = child


@given(data=st.data(), seed=st.integers(0, 10**6), mutate=st.sampled_from(list(ALL.values())))
def test_a_split_of_uneven_costs_is_kept(
    spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int, mutate: Mutation
) -> None:
    space = split(data.draw(spaces))
    rng = Random(seed)
    parent = random_start(space, rng)
    assert space.fits(parent)
    for _ in range(5):
        child = mutate(space, parent, rng)
        assert child is None or space.fits(child)
        parent = child or parent


def split(space: SearchSpace) -> SearchSpace:
    """The same with two groups, each held to its own part of the budget."""
    if len(space.units) < 2:
        return space
    groups = tuple(range(0, len(space.units), 2)), tuple(range(1, len(space.units), 2))
    parts = [sum(space.costs[unit][-1] + space.costs[unit][0] for unit in group) // 2 for group in groups]
    return SearchSpace(space.units, sum(parts), groups, tuple(parts))


def test_a_split_is_part_of_what_fits(drops: Drops) -> None:
    space = drops(blocks=3, k=1, weights=(4, 4))
    good = Profile(space.names, ("drop", "keep", "keep", "drop", "keep", "keep"))
    bad = Profile(space.names, ("drop", "keep", "drop", "keep", "keep", "keep"))
    assert space.cost(good) == space.cost(bad) == space.budget == 16
    assert space.limits == (((0, 2, 4), 8), ((1, 3, 5), 8))
    assert space.shares == (8, 8)
    assert space.fits(good)
    assert not space.fits(bad)
    space.validate(good)
    with pytest.raises(BudgetError, match=r"the 3 units like '0.mlp' cost 12, above their part of the budget, 8"):
        space.validate(bad)
    with pytest.raises(BudgetError, match="above the budget"):
        space.validate(Profile(space.names, ("keep",) * 6))
    assert [(part.names, part.budget) for part in space.parts()] == [
        (("0.attn", "1.attn", "2.attn"), 8),
        (("0.mlp", "1.mlp", "2.mlp"), 8),
    ]


def test_impossible_splits(drops: Drops) -> None:
    with pytest.raises(BudgetError, match=r"1/4 for role 'attn' cannot be met; the levels allow 0\.75 to 1"):
        drops(blocks=4, k=3, protected=["0.attn", "1.attn", "2.attn"])
    units = tuple(Unit(name, 0, name, 1, (Level("drop", 1), Level("keep", 2))) for name in "ab")
    with pytest.raises(ProfileError, match=r"must hold 2 parts that add up to 3"):
        SearchSpace(units, 3, ((0,), (1,)), (1, 1))
    with pytest.raises(BudgetError, match=r"the 1 units like 'b' cost at least 1, their part of the budget is 0"):
        SearchSpace(units, 3, ((0,), (1,)), (3, 0))
    assert make_space(units, average="3/2", exchange="role").split == (1, 1)


def test_sparsities_start_uniform_although_counts_are_rounded(sparse: Drops) -> None:
    space = sparse(sizes=(41, 63, 85))
    (start,) = default_starts(space, Random(0))
    assert start.levels == ("0", "0", "0")
    assert space.cost(start) == space.budget
