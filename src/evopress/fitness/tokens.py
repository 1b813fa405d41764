"""Token sequences for calibration, search and held-out scoring, in exact numbers and never overlapping.

Only as many documents are tokenised as the request needs. Sequences stay on the CPU as 1-D int64 tensors. No BOS or
other special token is added anywhere (paper, appendix: this is what reproduces the published dense perplexities).

A sequence of one token predicts nothing, and its mean divergence is NaN, so no sequence here is shorter than two.
Where a cut would leave one token alone, the piece before it gives up its last token: sums stay exact.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evopress.errors import ConfigError, DataError, NotEnoughTokens
from evopress.fitness.sources import open_heldout, open_text
from evopress.fitness.text import passages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST_SEQUENCE = 2  # tokens
_TOKENIZED_AT_ONCE = 1 << 22  # characters; longer documents are tokenised in parts, so that memory stays bounded
_PASSAGE = 8  # characters of a passage for each token of a sequence: about two sequences of English
_SEPARATOR = "\n\n"  # between packed documents


@dataclass(frozen=True, slots=True)
class Piece:
    """The first `length` tokens of sequence number `sequence` of some `Tokens`."""

    sequence: int
    length: int


@dataclass(frozen=True)
class Tokens:
    """Sequences of token ids, each of at least two tokens, from one source.

    `fingerprint` is the sha256 of ids and sequence lengths; `documents` says from how many documents, or
    passages of long documents, the ids come.
    """

    sequences: tuple[Tensor, ...] = field(repr=False, compare=False)
    source: str
    fingerprint: str
    documents: int = 0

    @classmethod
    def of(cls, sequences: Iterable[Tensor], source: str, documents: int = 0) -> Tokens:
        """Tokens with their fingerprint computed; DataError for a sequence of fewer than two tokens."""
        sequences = tuple(sequences)
        for i, sequence in enumerate(sequences):
            if sequence.ndim != 1 or len(sequence) < SHORTEST_SEQUENCE:
                shape = tuple(sequence.shape)
                raise DataError(f"{source}: sequence {i} has shape {shape}; give 1-D sequences of at least two tokens")
        return cls(sequences, source, fingerprint(sequences), documents)

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

    def record(self) -> dict[str, str | int]:
        """What a run directory keeps of these tokens."""
        return {
            "source": self.source,
            "tokens": self.total,
            "documents": self.documents,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Splits:
    """Three sets of tokens without a common token position; held-out text shares no document with the others."""

    calibration: Tokens
    search: Tokens
    heldout: Tokens

    def record(self) -> dict[str, dict[str, str | int]]:
        """What a run directory keeps of the data: source, number of tokens and documents, fingerprint of each part."""
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


def load_splits(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequence_length: int,
    calibration_tokens: int,
    search_tokens: int,
    heldout_tokens: int,
    seed: int,
) -> Splits:
    """Tokens to calibrate with, to search on and to score at the end, in exactly the numbers asked for.

    `source` is a name (`demo`, `wikitext2`, `c4`, `fineweb_edu`), `hub:NAME[:CONFIG[:SPLIT]]` or the path of a .txt,
    .jsonl or .parquet file. The seed chooses the training documents; the held-out text does not depend on it. The
    document in which the calibration tokens end may give its later tokens to the search. A part of 0 tokens is empty.

    Raises:
        DataError: the source is unknown, missing, empty or unreadable.
        NotEnoughTokens: it has too few tokens; the message says how many and what was asked for.
        MissingExtra: it needs a package that is not installed.
        ConfigError: a number that cannot be met, such as sequences of one token.
    """
    _check_length(sequence_length)
    for part in (calibration_tokens, search_tokens, heldout_tokens):
        if part < 0 or part == 1:
            raise ConfigError(f"asked for {part} tokens; give 0 or at least {SHORTEST_SEQUENCE}")
    text = open_text(source, seed, _PASSAGE * sequence_length)
    training = _Reader(text.training, tokenizer, sequence_length, packed=text.packed)
    calibration = training.take(calibration_tokens, f"{source} (calibration)")
    search = training.take(search_tokens, f"{source} (search)")
    found, asked = calibration.total + search.total, calibration_tokens + search_tokens
    if found < asked:
        parts = f"{calibration_tokens} calibration + {search_tokens} search"
        raise NotEnoughTokens(f"{source} has {found} training tokens; {asked} were asked for: {parts}")
    reader = _Reader(text.heldout, tokenizer, sequence_length, packed=text.packed)
    return Splits(calibration, search, _heldout(reader, source, heldout_tokens))


def load_heldout(
    source: str, tokenizer: PreTrainedTokenizerBase, sequence_length: int, tokens: int | None = None
) -> Tokens:
    """Non-overlapping windows to score: the whole text of a file, or the held-out part of a named source.

    `tokens` keeps only the first so many. Without it, `wikitext2` and `c4` drop the rest that fills no window, as the
    published perplexities do; other sources keep it as a shorter window. Raises what `load_splits` raises.
    """
    _check_length(sequence_length)
    if tokens is not None and tokens < SHORTEST_SEQUENCE:
        raise ConfigError(f"asked for {tokens} tokens; give at least {SHORTEST_SEQUENCE}")
    text = open_heldout(source, _PASSAGE * sequence_length)
    reader = _Reader(text.heldout, tokenizer, sequence_length, packed=text.packed)
    if tokens is not None:
        return _heldout(reader, source, tokens)
    everything = reader.take(None, f"{source} (held-out)")
    if not everything.sequences:
        raise NotEnoughTokens(f"{source} has fewer than {SHORTEST_SEQUENCE} tokens; nothing can be predicted from it")
    if text.packed and everything.total < sequence_length:
        raise NotEnoughTokens(
            f"{source} has {everything.total} tokens, fewer than one window of {sequence_length}; "
            f"give more text, or --sequence-length {everything.total} or less"
        )
    if text.whole_windows:
        ids = torch.cat(everything.sequences)
        windows = torch.split(ids[: len(ids) // sequence_length * sequence_length], sequence_length)
        return Tokens.of(windows, everything.source, everything.documents)
    return everything


def _heldout(reader: _Reader, source: str, tokens: int) -> Tokens:
    heldout = reader.take(tokens, f"{source} (held-out)")
    if heldout.total < tokens:
        raise NotEnoughTokens(f"{source} has {heldout.total} held-out tokens; {tokens} were asked for")
    return heldout


def _check_length(sequence_length: int) -> None:
    if sequence_length <= SHORTEST_SEQUENCE:
        raise ConfigError(f"sequence length is {sequence_length}; give at least {SHORTEST_SEQUENCE + 1} tokens")


class _Reader:
    """Takes exact numbers of tokens, one part after the other, from documents that are tokenised as needed."""

    def __init__(
        self, documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, sequence_length: int, *, packed: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._length = sequence_length
        self._packed = packed
        self._opened = 0  # documents
        self._stretches = self._tokenize(iter(documents))
        self._rest: Tensor | None = None  # what the last part left of its last stretch

    def take(self, tokens: int | None, source: str) -> Tokens:
        """The next `tokens` tokens (None: all) as sequences; fewer where the documents end."""
        opened = self._opened - (self._rest is not None)
        stretches: list[Tensor] = []
        found = 0
        while tokens is None or found < tokens:
            stretch, self._rest = self._rest, None
            if stretch is None:
                stretch = next(self._stretches, None)
            if stretch is None:
                break
            stretches.append(stretch)
            found += len(stretch)
        if tokens is not None and found > tokens and self._packed:
            kept = len(stretches[-1]) - (found - tokens)
            stretches[-1], self._rest = stretches[-1][:kept], stretches[-1][kept:]
        return Tokens.of(self._sequences(stretches, tokens), source, self._opened - opened if stretches else 0)

    def _sequences(self, stretches: list[Tensor], tokens: int | None) -> list[Tensor]:
        """Packed: one stream cut into windows. Else each stretch is a sequence already and only the sum is cut."""
        if not stretches:
            return []
        if self._packed:
            return _windows(torch.cat(stretches), self._length)
        if tokens is None or sum(map(len, stretches)) < tokens:
            return stretches
        return [stretches[position][:length] for position, length in cut(map(len, stretches), tokens)]

    def _tokenize(self, documents: Iterator[str]) -> Iterator[Tensor]:
        for document in documents:
            separator = _SEPARATOR if self._packed and self._opened else ""
            self._opened += 1
            for part in passages(separator + document, _TOKENIZED_AT_ONCE):
                encoding = self._tokenizer(part, add_special_tokens=False, verbose=False)
                ids = torch.tensor(encoding["input_ids"], dtype=torch.int64)
                if self._packed:
                    yield ids
                else:
                    yield from (piece for piece in torch.split(ids, self._length) if len(piece) >= SHORTEST_SEQUENCE)


def _windows(ids: Tensor, length: int) -> list[Tensor]:
    """Non-overlapping windows of `length` tokens, the last one shorter; all ids but a single lone one are used."""
    windows = list(torch.split(ids, length))
    if len(windows[-1]) >= SHORTEST_SEQUENCE:
        return windows
    if len(windows) == 1:
        return []
    return [*windows[:-2], windows[-2][:-1], ids[-SHORTEST_SEQUENCE:]]
