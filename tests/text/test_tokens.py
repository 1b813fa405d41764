"""Exact numbers of tokens, in pieces of at least two."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from evopress.errors import ConfigError, DataError, NotEnoughTokens
from evopress.text.tokens import Tokens, cut, fingerprint


def of_lengths(lengths: list[int]) -> Tokens:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return Tokens.of([torch.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)], "here")


@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.data())
def test_a_minibatch_is_exact_without_repetition_and_without_lone_tokens(lengths: list[int], data: st.DataObject):
    tokens = of_lengths(lengths)
    asked = data.draw(st.integers(2, tokens.total))
    assume(asked % 2 == 0 or max(lengths) > 2)
    pieces = tokens.minibatch(asked, random.Random(data.draw(st.integers(0, 5))))
    assert sum(piece.length for piece in pieces) == asked
    assert len({piece.sequence for piece in pieces}) == len(pieces)
    assert all(2 <= piece.length <= lengths[piece.sequence] for piece in pieces)


def test_the_same_seed_draws_the_same_minibatch_and_another_draws_another():
    tokens = of_lengths([4] * 50)
    first, again, other = (tokens.minibatch(40, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_minibatch_of_more_than_exists_is_an_error():
    with pytest.raises(NotEnoughTokens, match=r"^asked for 4096 tokens but here has 20$"):
        of_lengths([10, 10]).minibatch(4096, random.Random(0))


def test_numbers_that_no_cut_can_give_are_errors():
    with pytest.raises(ConfigError, match="asked for 1 tokens"):
        of_lengths([10]).minibatch(1, random.Random(0))
    with pytest.raises(ConfigError, match="3 tokens cannot be cut from sequences of two"):
        of_lengths([2, 2]).minibatch(3, random.Random(0))


@pytest.mark.parametrize(
    ("lengths", "asked", "expected"),
    [
        ([4, 4], 8, [(0, 4), (1, 4)]),
        ([4, 4], 5, [(0, 3), (1, 2)]),
        ([2, 2, 3], 3, [(2, 3)]),
        ([3, 2, 2], 6, [(0, 2), (1, 2), (2, 2)]),
        ([2, 2, 3], 5, [(0, 2), (2, 3)]),
    ],
)
def test_where_one_token_would_be_left_the_piece_before_gives_one(
    lengths: list[int], asked: int, expected: list[tuple[int, int]]
):
    assert cut(lengths, asked) == expected


def test_one_token_sequences_are_refused():
    with pytest.raises(DataError, match=r"sequence 1 has shape \(1,\)"):
        of_lengths([4, 1])


def test_the_fingerprint_knows_ids_and_boundaries_but_not_the_dtype():
    base = fingerprint([torch.tensor([1, 2, 3, 4])])
    assert base == fingerprint([torch.tensor([1, 2, 3, 4], dtype=torch.int32)])
    assert base != fingerprint([torch.tensor([1, 2, 3, 5])])
    assert base != fingerprint([torch.tensor([1, 2]), torch.tensor([3, 4])])
