"""ShortGPT, Weight Subcloning, Shortened Llama and the sliding window drop whole blocks, k of them."""

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, ConfigError, ProfileError
from evopress.search import (
    Batch,
    Effort,
    ShortenedLlama,
    ShortGPT,
    SlidingWindow,
    Strategy,
    WeightSubcloning,
    run_search,
)
from evopress.search.baselines.spans import find_spans

Toy = Callable[..., SearchSpace]
Table = list[list[float]]


def random_table(blocks: int, seed: int) -> Table:
    rng = Random(seed)
    return [[rng.random() for _ in range(blocks - first)] for first in range(blocks)]


def dropped_blocks(space: SearchSpace, profile: Profile, width: int = 1) -> list[int]:
    """The blocks that are gone; fails when only a part of one is."""
    levels: dict[int, set[str]] = {}
    for unit in space.units:
        levels.setdefault(unit.block, set()).add(profile[unit.name])
    assert all(len(own) == 1 for own in levels.values())
    return sorted(start + i for start, own in levels.items() for i in range(width) if own == {"drop"})


def strategies(space: SearchSpace, blocks: int, seed: int = 0) -> list[Strategy]:
    table = random_table(blocks, seed)
    return [
        ShortGPT(space, table, tokens=5),
        WeightSubcloning(space, table, tokens=5),
        SlidingWindow(space, table, tokens=5),
        ShortenedLlama(space, blocks, tokens=5),
    ]


def score_of(seed: int) -> Callable[[Profile], float]:
    return lambda profile: Random(f"{seed}/{profile.levels}").random()


@pytest.mark.parametrize("kind", ["block", "sublayer"])
@pytest.mark.parametrize("seed", range(4))
def test_the_least_important_go(drops: Toy, kind: str, seed: int) -> None:
    space, table = drops(blocks=9, k=4, kind=kind), random_table(9, seed)
    cosines = [row[0] for row in table]
    influence = [1 - cosine for cosine in cosines]
    shortgpt = ShortGPT(space, table, tokens=1)
    assert dropped_blocks(space, shortgpt.best) == sorted(sorted(range(9), key=lambda b: influence[b])[:4])
    subcloning = WeightSubcloning(space, table, tokens=1)
    assert dropped_blocks(space, subcloning.best) == sorted(sorted(range(9), key=lambda b: cosines[b])[:4])
    assert space.cost(shortgpt.best) == space.cost(subcloning.best) == space.budget


@pytest.mark.parametrize("kind", ["block", "sublayer"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_window_is_the_contiguous_k_of_the_largest_cosine(drops: Toy, kind: str, k: int) -> None:
    space, table = drops(blocks=9, k=k, kind=kind), random_table(9, k)
    first = max(range(9 - k + 1), key=lambda i: table[i][k - 1])
    search = SlidingWindow(space, table, tokens=1)
    assert dropped_blocks(space, search.best) == list(range(first, first + k))
    assert space.cost(search.best) == space.budget


def test_pairs_are_judged_from_their_input_to_their_output(drops: Toy) -> None:
    space, table = drops(blocks=8, k=2, kind="pair"), random_table(8, 1)
    two = sorted((0, 2, 4, 6), key=lambda i: table[i][1])
    assert dropped_blocks(space, WeightSubcloning(space, table, tokens=1).best, 2) == sorted(
        block + i for block in two[:2] for i in (0, 1)
    )
    assert dropped_blocks(space, ShortGPT(space, table, tokens=1).best, 2) == sorted(
        block + i for block in two[2:] for i in (0, 1)
    )
    first = max((0, 2, 4), key=lambda i: table[i][3])
    assert dropped_blocks(space, SlidingWindow(space, table, tokens=1).best, 2) == list(range(first, first + 4))


def test_shortened_llama_asks_for_each_block_alone_and_for_the_result(drops: Toy) -> None:
    space, score = drops(blocks=7, k=3, protected=["2.mlp"]), score_of(3)
    search = ShortenedLlama(space, 7, tokens=5)
    assert search.effort == Effort(7, 5)
    assert dropped_blocks(space, search.best) == [4, 5, 6]
    seen: list[Batch] = []
    run_search(search, lambda ps, tokens: list(map(score, ps)), on_batch=lambda result: seen.append(result.batch))
    singles, result = seen
    harm = {}
    for profile in singles.profiles:
        (block,) = dropped_blocks(space, profile)
        harm[block] = score(profile)
    assert set(harm) == {0, 1, 3, 4, 5, 6}
    assert dropped_blocks(space, search.best) == sorted(sorted(harm, key=lambda block: harm[block])[:3])
    assert result.profiles == (search.best,)
    assert (singles.generation, result.generation, result.tokens) == (0, 1, 5)
    assert search.score == score(search.best)
    assert space.cost(search.best) == space.budget


def test_the_others_score_their_profile_once(drops: Toy) -> None:
    space = drops(blocks=6, k=2, kind="block")
    for search in strategies(space, 6)[:3]:
        batch = search.ask()
        assert batch == Batch(0, 0, 5, (search.best,))
        search.tell([0.25])
        assert search.score == 0.25
        assert search.ask() is None


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_every_profile_fits_and_drops_whole_blocks(
    depths: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int
) -> None:
    space = data.draw(depths)
    pairs = len({unit.block for unit in space.units}) < max(unit.block for unit in space.units) + 1
    width = 2 if pairs else 1
    blocks = max(unit.block for unit in space.units) + width
    fixed = {unit.block for unit in space.units if len(unit.levels) == 1}
    table = random_table(blocks, seed)
    searches: list[Strategy] = [
        ShortGPT(space, table, tokens=1),
        WeightSubcloning(space, table, tokens=1),
        ShortenedLlama(space, blocks, tokens=1),
    ]
    try:
        searches.append(SlidingWindow(space, table, tokens=1))
    except BudgetError:
        assert fixed, "only units that must be kept can be in the way"
    for search in searches:
        best = run_search(search, lambda ps, tokens: list(map(score_of(seed), ps)))
        assert not fixed & set(dropped_blocks(space, best, width))
        assert space.cost(best) == space.budget
    if len(searches) == 4:
        gone = dropped_blocks(space, searches[3].best, width)
        assert gone == list(range(gone[0], gone[-1] + 1))


def test_ties_go_to_the_first(drops: Toy) -> None:
    space = drops(blocks=6, k=2, kind="block")
    flat = [[0.5] * (6 - first) for first in range(6)]
    for search in (
        ShortGPT(space, flat, tokens=1),
        WeightSubcloning(space, flat, tokens=1),
        SlidingWindow(space, flat, tokens=1),
    ):
        assert dropped_blocks(space, search.best) == [0, 1]
    tied = ShortenedLlama(space, 6, tokens=1)
    run_search(tied, lambda ps, tokens: [math.nan if p.levels[0] == "drop" else 1.0 for p in ps])
    assert dropped_blocks(space, tied.best) == [1, 2]


def test_what_is_protected_stays(drops: Toy) -> None:
    space = drops(blocks=6, k=2, protected=["0.attn", "2.mlp", "4.attn"])
    flat = [[0.5] * (6 - first) for first in range(6)]
    assert dropped_blocks(space, ShortGPT(space, flat, tokens=1).best) == [1, 3]
    with pytest.raises(BudgetError, match="no run of consecutive blocks that may be dropped meets the budget of 32"):
        SlidingWindow(space, flat, tokens=1)
    tight = drops(blocks=6, k=4, protected=["0.attn", "2.mlp", "4.attn"])
    with pytest.raises(BudgetError, match="dropping all 3 blocks that may be dropped leaves a cost of 24, above the"):
        ShortGPT(tight, flat, tokens=1)


def uneven(costs: list[int], budget: int) -> SearchSpace:
    units = [Unit(f"{i}", i, "b", 9, (Level("drop", 0), Level("keep", cost))) for i, cost in enumerate(costs)]
    return SearchSpace(tuple(units), budget, (tuple(range(len(costs))),))


def test_blocks_of_unequal_weight_never_exceed_the_budget_and_return_where_they_fit() -> None:
    space = uneven([1, 2, 8, 3], budget=7)
    order = [[0.1], [0.2], [0.3], [0.4]]
    table = [row * (4 - first) for first, row in enumerate(order)]
    best = WeightSubcloning(space, table, tokens=1).best
    assert dropped_blocks(space, best) == [2], "0 and 1 were dropped first and fit again after 2"
    assert dropped_blocks(space, SlidingWindow(space, table, tokens=1).best) == [2]


def test_a_budget_that_is_no_number_of_blocks_is_met_from_below(drops: Toy) -> None:
    space = SearchSpace(drops(blocks=5, k=2, kind="block").units, 3 * 8 + 5, (tuple(range(5)),))
    for search in strategies(space, 5):
        assert space.cost(search.best) == 3 * 8


def test_foreign_spaces(toy: Toy, drops: Toy) -> None:
    table = random_table(6, 0)
    with pytest.raises(ConfigError, match="none of the 6 units has the level 'drop'; this baseline is for depth"):
        ShortGPT(toy(), table, tokens=1)
    for blocks in (5, 7):
        with pytest.raises(ProfileError, match=f"at blocks 0, 1, 2, 3, 4, 5 do not cover a model of {blocks} blocks"):
            ShortenedLlama(drops(blocks=6), blocks, tokens=1)
    whole = drops(blocks=6, kind="block")
    for kept in ([1, 2, 3, 4, 5], [0, 1, 2, 4, 5]):
        part = SearchSpace(tuple(whole.units[unit] for unit in kept), 30, ((0, 1, 2, 3, 4),))
        with pytest.raises(ProfileError, match="do not cover a model of 6 blocks"):
            find_spans(part, 6)


def test_an_odd_last_pair_is_one_block() -> None:
    units = [Unit(f"{b}", b, "pair", 2, (Level("drop", 0), Level("keep", 2 if b < 4 else 1))) for b in (0, 2, 4)]
    space = SearchSpace(tuple(units), 3, ((0, 1, 2),))
    assert [(span.first, span.last) for span in find_spans(space, 5)] == [(0, 1), (2, 3), (4, 4)]
