"""Which tokens a batch of a search is scored on: a fresh minibatch for each call, or a part that can be come back to.

Both depend on numbers alone, so an interrupted search sees the text of an uninterrupted one, and whoever counts tokens
can tell what was drawn.
"""

from __future__ import annotations

import itertools
import random

from evopress.errors import NotEnoughTokens
from evopress.text.tokens import Piece, Tokens, cut


def minibatch(text: Tokens, number: int, tokens: int, seed: int) -> list[Piece]:
    """What call number `number` of a search with that seed scores on."""
    return text.minibatch(tokens, random.Random(f"{seed}/{number}"))


def part(text: Tokens, number: int, tokens: int, seed: int) -> list[Piece]:
    """Part `number` of an endless walk through the text, exactly `tokens` tokens: the same whoever asks.

    Each round of the walk has the sequences in another random order and none of them twice; what is left of a round and
    is too short for a part is left out. NotEnoughTokens: more tokens than exist.
    """
    if tokens > text.total:
        raise NotEnoughTokens(f"asked for a part of {tokens} tokens but {text.source} has {text.total}")
    lengths, walked = list(map(len, text.sequences)), 0
    for turn in itertools.count():
        order = random.Random(f"{seed}/walk/{turn}").sample(range(len(lengths)), len(lengths))
        while sum(lengths[i] for i in order) >= tokens:
            pieces = cut((lengths[i] for i in order), tokens)
            if walked == number:
                return [Piece(order[position], length) for position, length in pieces]
            walked, order = walked + 1, order[len(pieces) :]
    raise AssertionError("an endless walk ended")
