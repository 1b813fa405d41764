"""Masks keep exactly as many as asked, the highest, and of equal scores the last."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.levels.masks import keep_largest, ranks

SCORES = st.lists(
    st.one_of(
        st.floats(min_value=0, allow_nan=False, allow_infinity=False, width=32), st.sampled_from([0.0, 1.0, 2.0])
    ),
    min_size=1,
    max_size=60,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(values=SCORES, data=st.data())
def test_the_lowest_go_and_of_equal_ones_the_first(
    dtype: torch.dtype, values: list[float], data: st.DataObject
) -> None:
    zeros = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda i: values[i])  # a stable sort
    expected = torch.ones(len(values), dtype=torch.uint8)
    expected[order[:zeros]] = 0
    assert torch.equal(keep_largest(torch.tensor(values, dtype=dtype), zeros), expected)


def test_many_scores_whose_leading_bits_agree() -> None:
    scores = 1 + torch.rand(40, 100, generator=torch.Generator().manual_seed(0)) / 300
    kept = keep_largest(scores, 1234)
    assert kept.shape == scores.shape
    assert int((kept == 0).sum()) == 1234
    assert scores[kept == 0].max() <= scores[kept == 1].min()


@given(st.integers(1, 9).flatmap(lambda m: st.lists(st.lists(st.integers(0, 3), min_size=m, max_size=m), min_size=1)))
def test_ranks_are_places_in_falling_order_and_of_equal_ones_the_last_come_first(rows: list[list[int]]) -> None:
    answer = ranks(torch.tensor(rows, dtype=torch.float32).unbind(1)).T.tolist()
    for row, places in zip(rows, answer, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], -i))
        assert [order.index(i) for i in range(len(row))] == places


def test_ranks_of_long_groups() -> None:
    scores = torch.randperm(150, generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(ranks(scores.unbind()).long(), (-scores).argsort().argsort())
