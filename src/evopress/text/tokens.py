"""Token sequences for calibration, search and held-out scoring, in exact numbers and never overlapping.

Sequences stay on the CPU as 1-D int64 tensors. Where the model wants a BOS token, each begins with one, also when it is
cut. It counts as a token like the others, but is given, not predicted: the first prediction is that of the next token.

A sequence of one token predicts nothing, and its mean divergence is NaN, so no sequence here is shorter than two.
Where a cut would leave one token alone, the piece before it gives up its last token: sums stay exact.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from evopress.errors import ConfigError, DataError, NotEnoughTokens

SHORTEST_SEQUENCE = 2  # tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """The first `length` tokens of sequence number `sequence` of some `Tokens`."""

    sequence: int
    length: int


@dataclass(frozen=True)
class Tokens:
    """Sequences of token ids, each of at least two tokens, from one source.

    `fingerprint` is the sha256 of ids and sequence lengths; `documents` says from how many documents, or
    passages of long documents, the ids come; `bos` is the BOS token that each sequence begins with, if they do.
    """

    sequences: tuple[Tensor, ...] = field(repr=False, compare=False)
    source: str
    fingerprint: str
    documents: int = 0
    bos: int | None = None

    @classmethod
    def of(cls, sequences: Iterable[Tensor], source: str, documents: int = 0, bos: int | None = None) -> Tokens:
        """Tokens with their fingerprint computed; DataError for a sequence of fewer than two tokens."""
        sequences = tuple(sequences)
        for i, sequence in enumerate(sequences):
            if sequence.ndim != 1 or len(sequence) < SHORTEST_SEQUENCE:
                shape = tuple(sequence.shape)
                raise DataError(f"{source}: sequence {i} has shape {shape}; give 1-D sequences of at least two tokens")
        return cls(sequences, source, fingerprint(sequences), documents, bos)

    @property
    def total(self) -> int:
        """Number of tokens in all sequences."""
        return sum(len(sequence) for sequence in self.sequences)

    def minibatch(self, tokens: int, rng: random.Random) -> list[Piece]:
        """Exactly `tokens` tokens: whole sequences drawn at random without replacement, the last one cut to fit.

        Raises:
            NotEnoughTokens: more tokens than exist.
            ConfigError: fewer than two tokens, or an odd number of sequences that all have two.
        """
        if tokens > self.total:
            raise NotEnoughTokens(f"asked for {tokens} tokens but {self.source} has {self.total}")
        order = rng.sample(range(len(self.sequences)), len(self.sequences))
        lengths = (len(self.sequences[i]) for i in order)
        return [Piece(order[position], length) for position, length in cut(lengths, tokens)]

    def record(self) -> dict[str, str | int | None]:
        """What a run directory keeps of these tokens."""
        return {
            "source": self.source,
            "tokens": self.total,
            "documents": self.documents,
            "fingerprint": self.fingerprint,
            "bos": self.bos,
        }


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many tokens each of the three sets has; 0 leaves one out."""

    calibration: int
    search: int
    heldout: int


@dataclass(frozen=True)
class Splits:
    """Three sets of tokens without a common token position; held-out text shares no document with the others."""

    calibration: Tokens
    search: Tokens
    heldout: Tokens

    def record(self) -> dict[str, dict[str, str | int | None]]:
        """What a run directory keeps of each part: source, number of tokens and documents, fingerprint, BOS token."""
        parts = {"calibration": self.calibration, "search": self.search, "heldout": self.heldout}
        return {name: tokens.record() for name, tokens in parts.items()}


def fingerprint(sequences: Iterable[Tensor]) -> str:
    """Sha256 of the ids (little-endian int64), each sequence preceded by its length."""
    digest = hashlib.sha256()
    for sequence in sequences:
        ids = sequence.cpu().numpy().astype("<i8")
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(ids.tobytes())
    return digest.hexdigest()


def cut(lengths: Iterable[int], tokens: int) -> list[tuple[int, int]]:
    """The first `tokens` tokens of sequences of these lengths, as (position, tokens taken), each of at least two.

    The sequences must hold so many tokens together; ConfigError when they cannot be cut so.

    >>> cut([4, 4], 5)
    [(0, 3), (1, 2)]
    """
    if tokens < SHORTEST_SEQUENCE:
        raise ConfigError(f"asked for {tokens} tokens; a prediction needs at least {SHORTEST_SEQUENCE}")
    pieces: list[tuple[int, int]] = []
    left = tokens
    for position, length in enumerate(lengths):
        pieces.append((position, min(length, left)))
        left -= pieces[-1][1]
        if left == 1:
            left += _give_back(pieces)
        if not left:
            return pieces
    raise ConfigError(f"{tokens} tokens cannot be cut from sequences of two tokens; ask for an even number")


def _give_back(pieces: list[tuple[int, int]]) -> int:
    """Take one token from the last piece that can spare it, else the whole last piece; returns how many."""
    for i in reversed(range(len(pieces))):
        position, length = pieces[i]
        if length > SHORTEST_SEQUENCE:
            pieces[i] = (position, length - 1)
            return 1
    return pieces.pop()[1]
