"""Minibatches and parts depend on numbers alone; a walk has everything once before anything twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.errors import ConfigError, NotEnoughTokens
from evopress.fitness.draws import minibatch, part
from evopress.text.tokens import Tokens, cut


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=8), data=st.data())
def test_parts_walk_through_the_text_round_after_round(lengths: list[int], data: st.DataObject) -> None:
    text = Tokens.of([torch.arange(length) for length in lengths], "numbers")
    tokens = data.draw(st.integers(2, text.total))
    try:
        cut(lengths, tokens)
        parts = [part(text, number, tokens, 5) for number in range(5)]
    except ConfigError:  # an odd number of tokens cannot be cut from sequences of two
        return
    assert all(sum(piece.length for piece in own) == tokens for own in parts)
    assert parts[3] == part(text, 3, tokens, 5)
    first_round = [piece.sequence for own in parts[: text.total // (tokens + max(lengths))] for piece in own]
    assert len(set(first_round)) == len(first_round)


def test_a_part_of_more_than_exists_is_an_error() -> None:
    with pytest.raises(NotEnoughTokens, match="a part of 9"):
        part(Tokens.of([torch.arange(8)], "numbers"), 0, 9, 0)


def test_minibatches_depend_on_number_and_seed() -> None:
    text = Tokens.of([torch.arange(4)] * 20, "numbers")
    assert minibatch(text, 1, 16, 0) == minibatch(text, 1, 16, 0)
    assert minibatch(text, 1, 16, 0) != minibatch(text, 2, 16, 0)
    assert minibatch(text, 1, 16, 0) != minibatch(text, 1, 16, 1)
