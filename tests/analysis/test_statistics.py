"""Correlations against slow references, and never a NaN."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.analysis.statistics import finite, interval, pearson, ranks, require_enough, spearman
from evopress.errors import ConfigError

NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12)


def slow_ranks(values: list[float]) -> list[float]:
    return [sum(other < own for other in values) + (sum(other == own for other in values) + 1) / 2 for own in values]


def slow_pearson(a: list[float], b: list[float]) -> float:
    x, y = sum(a) / len(a), sum(b) / len(b)
    both = sum((p - x) * (q - y) for p, q in zip(a, b, strict=True))
    norm = math.sqrt(sum((p - x) ** 2 for p in a) * sum((q - y) ** 2 for q in b))
    return both / norm if norm else 0.0


@given(NUMBERS)
def test_equals_the_slow_reference(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(p) for p, _ in pairs], [float(q) for _, q in pairs]
    assert ranks(a).tolist() == slow_ranks(a)
    assert pearson(a, b) == pytest.approx(slow_pearson(a, b), abs=1e-12)
    assert spearman(a, b) == pytest.approx(slow_pearson(slow_ranks(a), slow_ranks(b)), abs=1e-12)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_neither_huge_nor_tiny_scores_break_it(scale: float) -> None:
    assert pearson([scale, 2 * scale, 3 * scale], [3, 2, 1]) == pytest.approx(-1)


def test_a_constant_orders_nothing() -> None:
    assert pearson([0.1] * 7, range(7)) == spearman(range(7), [0.3] * 7) == 0.0


def test_limits_of_a_rank_correlation() -> None:
    # atanh(0.5) = 0.5493, standard error sqrt(1.125 / 25) = 0.2121
    assert interval(0.5, 28) == pytest.approx((0.1327, 0.7465), abs=1e-4)
    assert interval(1.0, 10) == pytest.approx((1.0, 1.0))
    assert interval(0.5, 3) == (-1.0, 1.0)


def test_only_finite_scores_count_and_three_are_needed() -> None:
    assert finite([1, math.nan, 2, 3], [0, 1, math.inf, 4]) == [0, 3]
    with pytest.raises(ConfigError, match="2 of 4 profiles have finite scores; a correlation needs 3"):
        require_enough([0, 3], 4)
