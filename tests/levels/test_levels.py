"""Levels of sparsity: exact totals, one step for all, room each way."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evopress.errors import ConfigError
from evopress.levels import Pattern, automatic_step, base_zeros, sparsity_levels
from evopress.levels.levels import EACH_WAY, count_zeros, spread

SIZES = st.lists(st.integers(1, 10**7), min_size=1, max_size=30)
SPARSITIES = st.fractions(0, 1, max_denominator=1000).filter(lambda s: s < 1)


@given(SIZES, st.data())
def test_parts_are_proportional_and_their_sum_is_exact(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    parts = spread(total, sizes)
    assert sum(parts) == total
    for part, size in zip(parts, sizes, strict=True):
        assert abs(part - Fraction(total * size, sum(sizes))) < 1
        assert 0 <= part <= size


@given(SIZES, SPARSITIES)
def test_base_zeros_reach_the_target_and_no_more(sizes: list[int], sparsity: Fraction) -> None:
    base = base_zeros(sizes, sparsity)
    assert sum(base) == math.ceil(sparsity * sum(sizes))
    assert all(abs(zeros - sparsity * size) < 2 for zeros, size in zip(base, sizes, strict=True))


def test_sparsity_is_the_number_that_is_written() -> None:
    assert base_zeros([10], 0.7) == base_zeros([10], "0.7") == base_zeros([10], Fraction(7, 10)) == [7]
    assert base_zeros([9], "2/3") == [6]


@given(SIZES, SPARSITIES)
def test_the_automatic_step_is_the_largest_that_leaves_room_each_way(sizes: list[int], sparsity: Fraction) -> None:
    base = base_zeros(sizes, sparsity)
    assume(all(min(zeros, size - zeros) >= EACH_WAY for zeros, size in zip(base, sizes, strict=True)))
    step = automatic_step(sizes, sparsity)

    def room(step: int) -> bool:
        return all(
            zeros - EACH_WAY * step >= 0 and zeros + EACH_WAY * step <= size
            for zeros, size in zip(base, sizes, strict=True)
        )

    assert room(step)
    assert not room(step + 1)
    assert sparsity_levels(sizes, sparsity) == sparsity_levels(sizes, sparsity, step=step)
    for levels in sparsity_levels(sizes, sparsity):
        assert {*range(-EACH_WAY, EACH_WAY + 1)} <= {offset for offset, _ in levels}


@given(SIZES, SPARSITIES, st.integers(1, 10**6), st.integers(1, 12))
def test_levels_are_whole_steps_from_the_base_within_the_layer(
    sizes: list[int], sparsity: Fraction, step: int, reach: int
) -> None:
    answer = sparsity_levels(sizes, sparsity, step=step, reach=reach)
    for levels, zeros, size in zip(answer, base_zeros(sizes, sparsity), sizes, strict=True):
        wanted = [(offset, zeros + offset * step) for offset in range(-reach, reach + 1)]
        assert levels == [(offset, count) for offset, count in wanted if 0 <= count <= size]
        assert (0, zeros) in levels


def test_the_step_of_the_paper() -> None:
    attention, small = 4096 * 4096, 1024 * 4096
    levels = sparsity_levels([attention, small], 0.7, step=1_000_000)
    assert [offset for offset, _ in levels[0]] == list(range(-8, 6))
    assert [offset for offset, _ in levels[1]] == list(range(-2, 2))


def test_without_zeros_there_is_one_level() -> None:
    assert sparsity_levels([10, 20], 0) == [[(0, 0)], [(0, 0)]]
    assert sparsity_levels([4], 0, step=2) == [[(0, 0), (1, 2), (2, 4)]]


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (1, "sparsity is 1, must be at least 0 and below 1"),
        (-0.1, "sparsity is -0.1, must be"),
        ("half", "sparsity 'half' is not a number"),
        (float("nan"), "sparsity nan is not a number"),
        ("1/0", "sparsity '1/0' is not a number"),
    ],
)
def test_impossible_sparsities_are_refused(sparsity: float | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sparsity_levels([10], sparsity)


def test_impossible_steps_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="step is 0 weights and reach 8 levels"):
        sparsity_levels([100], 0.5, step=0)
    with pytest.raises(ConfigError, match="reach 0"):
        sparsity_levels([100], 0.5, reach=0)
    with pytest.raises(ConfigError, match=r"layer 1 of 7 weights has no 4 levels each way of sparsity 0\.5"):
        sparsity_levels([100, 7], 0.5)
    with pytest.raises(ConfigError, match="layer sizes are"):
        sparsity_levels([], 0.5)
    with pytest.raises(ConfigError, match="layer sizes are"):
        sparsity_levels([4, 0], 0.5)


def test_patterns_count_their_zeros() -> None:
    assert Pattern(1, 4).zeros((3, 8)) == count_zeros(Pattern(1, 4), (3, 8)) == 18
    assert [Pattern(n, 2).zeros((3, 8)) for n in range(3)] == [24, 12, 0]
    with pytest.raises(ConfigError, match="pattern 2:4 does not fit 10 columns, 4 must divide them"):
        Pattern(2, 4).zeros((3, 10))


@pytest.mark.parametrize(("kept", "group"), [(5, 4), (-1, 4), (0, 0)])
def test_impossible_patterns_are_refused(kept: int, group: int) -> None:
    with pytest.raises(ConfigError, match=f"pattern is {kept}:{group}, must be N:M"):
        Pattern(kept, group)


@pytest.mark.parametrize("zeros", [-1, 25])
def test_impossible_counts_are_refused(zeros: int) -> None:
    with pytest.raises(ConfigError, match=rf"{zeros} zeros do not fit a weight of shape \(3, 8\), must be 0 to 24"):
        count_zeros(zeros, (3, 8))
