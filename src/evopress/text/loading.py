"""From a source of text to token sequences: the three parts of a run, and whole texts to score.

Only as many documents are tokenised as the request needs. Special tokens are left out, but for the BOS token that every
sequence begins with where one is asked for. It counts among a sequence's tokens, so that all numbers stay exact: the
sequence has one token of text less. The paper's protocol has none (appendix: so the published dense perplexities are
reproduced), and sequences without it are those of versions that knew no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evopress.errors import ConfigError, DataError, NotEnoughTokens, first_line
from evopress.text.documents import passages
from evopress.text.localfiles import FIELD
from evopress.text.sources import open_heldout, open_text
from evopress.text.tokens import SHORTEST_SEQUENCE, Amounts, Splits, Tokens, cut

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZED_AT_ONCE = 1 << 22  # characters; longer documents are tokenised in parts, so that memory stays bounded
_PASSAGE = 8  # characters of a passage for each token of a sequence: about two sequences of English
_SEPARATOR = "\n\n"  # between packed documents


def load_splits(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    amounts: Amounts,
    *,
    sequence_length: int,
    seed: int,
    bos: int | None = None,
    field: str = FIELD,
) -> Splits:
    """Tokens to calibrate with, to search on and to score at the end, in exactly the numbers asked for.

    `source` is a name (`demo`, `wikitext2`, `c4`, `fineweb_edu`), `hub:NAME[:CONFIG[:SPLIT]]` or the path of a .txt,
    .json, .jsonl or .parquet file (all but the last also as .gz) or of a directory with such files. Their text lies in
    `field`; chat messages become text through the tokenizer's template. The seed chooses the training documents; the
    held-out text does not depend on it. The document in which the calibration tokens end may give its later tokens to
    the search. A part of 0 tokens is empty. `bos` is the token that every sequence begins with; `sequence_length` and
    `amounts` have it in them.

    Raises:
        DataError: the source is unknown, missing, empty or unreadable.
        NotEnoughTokens: it has too few tokens; the message says how many and what was asked for.
        MissingExtra: it needs a package that is not installed.
        ConfigError: a number that cannot be met, such as sequences of one token.
    """
    _check_length(sequence_length)
    for part in (amounts.calibration, amounts.search, amounts.heldout):
        if part < 0 or part == 1:
            raise ConfigError(f"asked for {part} tokens; give 0 or at least {SHORTEST_SEQUENCE}")
    text = open_text(source, seed, _PASSAGE * sequence_length, field, partial(render_chat, tokenizer))
    training = _Reader(text.training, tokenizer, sequence_length, packed=text.packed, bos=bos)
    calibration = training.take(amounts.calibration, f"{source} (calibration)")
    search = training.take(amounts.search, f"{source} (search)")
    found, asked = calibration.total + search.total, amounts.calibration + amounts.search
    if found < asked:
        parts = f"{amounts.calibration} calibration + {amounts.search} search"
        raise NotEnoughTokens(f"{source} has {found} training tokens; {asked} were asked for: {parts}")
    reader = _Reader(text.heldout, tokenizer, sequence_length, packed=text.packed, bos=bos)
    return Splits(calibration, search, _heldout(reader, source, amounts.heldout))


def load_beyond(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    taken: Sequence[int],
    tokens: int,
    *,
    sequence_length: int,
    seed: int,
    bos: int | None = None,
) -> Tokens:
    """The training text behind what `load_splits` takes: `tokens` tokens of it, or as many as there are.

    `taken` are the numbers of calibration and search tokens, the rest and the errors are those of `load_splits`.
    """
    text = open_text(source, seed, _PASSAGE * sequence_length)
    reader = _Reader(text.training, tokenizer, sequence_length, packed=text.packed, bos=bos)
    for count in taken:
        reader.take(count, source)
    return reader.take(tokens, f"{source} (beyond the search text)")


def load_heldout(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    tokens: int | None = None,
    bos: int | None = None,
    field: str = FIELD,
) -> Tokens:
    """Non-overlapping windows to score: the whole text of a file, or the held-out part of a named source.

    `tokens` keeps only the first so many. Without it, `wikitext2` and `c4` drop the rest that fills no window, as the
    published perplexities do; other sources keep it as a shorter window. `bos`, `field` and the errors are those
    of `load_splits`.
    """
    _check_length(sequence_length)
    if tokens is not None and tokens < SHORTEST_SEQUENCE:
        raise ConfigError(f"asked for {tokens} tokens; give at least {SHORTEST_SEQUENCE}")
    text = open_heldout(source, _PASSAGE * sequence_length, field, partial(render_chat, tokenizer))
    reader = _Reader(text.heldout, tokenizer, sequence_length, packed=text.packed, bos=bos)
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
    return _whole_windows(everything, sequence_length) if text.whole_windows else everything


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> str:
    """Chat messages as the text of the tokenizer's template, without a BOS token: sequences get theirs anyway.

    DataError where there is no template, or where it refuses them.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the data holds chat messages, but the model's tokenizer has no chat template; give text")
    try:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    except Exception as error:  # templates are programs
        raise DataError(f"the model's chat template refuses messages of the data: {first_line(error)}") from error
    return text.removeprefix(str(tokenizer.bos_token or ""))


def _heldout(reader: _Reader, source: str, tokens: int) -> Tokens:
    heldout = reader.take(tokens, f"{source} (held-out)")
    if heldout.total < tokens:
        raise NotEnoughTokens(f"{source} has {heldout.total} held-out tokens; {tokens} were asked for")
    return heldout


def _whole_windows(everything: Tokens, length: int) -> Tokens:
    """The text in windows of exactly `length` tokens, without the rest."""
    begin = _begin(everything.bos)
    ids = torch.cat([sequence[len(begin) :] for sequence in everything.sequences])
    windows = _windows(ids, everything.total // length * length, length, begin)
    return Tokens.of(windows, everything.source, everything.documents, everything.bos)


def _check_length(sequence_length: int) -> None:
    if sequence_length <= SHORTEST_SEQUENCE:
        raise ConfigError(f"sequence length is {sequence_length}; give at least {SHORTEST_SEQUENCE + 1} tokens")


class _Reader:
    """Takes exact numbers of tokens, one part after the other, from documents that are tokenised as needed."""

    def __init__(
        self,
        documents: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        sequence_length: int,
        *,
        packed: bool,
        bos: int | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._length = sequence_length
        self._packed = packed
        self._bos, self._begin = bos, _begin(bos)
        self._opened = 0  # documents
        self._stretches = self._tokenize(iter(documents))
        self._rest: Tensor | None = None  # what the last part left of its last stretch

    def take(self, tokens: int | None, source: str) -> Tokens:
        """The next `tokens` tokens (None: all) as sequences; fewer where the documents end."""
        opened = self._opened - (self._rest is not None)
        stretches: list[Tensor] = []
        wanted, found = self._wanted(tokens), 0
        while wanted is None or found < wanted:
            stretch, self._rest = self._rest, None
            if stretch is None:
                stretch = next(self._stretches, None)
            if stretch is None:
                break
            stretches.append(stretch)
            found += len(stretch)
        if wanted is not None and found > wanted and self._packed:
            kept = len(stretches[-1]) - (found - wanted)
            stretches[-1], self._rest = stretches[-1][:kept], stretches[-1][kept:]
        complete = wanted is not None and found >= wanted
        sequences = self._sequences(stretches, tokens if complete else None)
        return Tokens.of(sequences, source, self._opened - opened if stretches else 0, self._bos)

    def _wanted(self, tokens: int | None) -> int | None:
        """How many tokens of stretches make so many tokens of sequences."""
        if not tokens or not self._packed:
            return tokens
        return tokens - len(self._begin) * -(-tokens // self._length)

    def _sequences(self, stretches: list[Tensor], tokens: int | None) -> list[Tensor]:
        """Packed: one stream cut into windows. Else each stretch is a sequence already and only the sum is cut.

        None: as many tokens as there are.
        """
        if not stretches:
            return []
        if self._packed:
            ids = torch.cat(stretches)
            windows = -(-len(ids) // (self._length - len(self._begin)))
            total = len(ids) + len(self._begin) * windows if tokens is None else tokens
            return _windows(ids, total, self._length, self._begin)
        if tokens is None:
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
                    continue
                for piece in torch.split(ids, self._length - len(self._begin)):
                    if len(self._begin) + len(piece) >= SHORTEST_SEQUENCE:
                        yield torch.cat([self._begin, piece])


def _begin(bos: int | None) -> Tensor:
    """What every sequence begins with: one token, or nothing."""
    return torch.tensor([] if bos is None else [bos], dtype=torch.int64)


def _windows(ids: Tensor, total: int, length: int, begin: Tensor) -> list[Tensor]:
    """Non-overlapping windows of `length` tokens, the last one shorter, of `total` tokens; none of a lone one.

    Each is `begin`, and then as many of the ids as there is room for.
    """
    if total < SHORTEST_SEQUENCE:
        return []
    lengths = [taken - len(begin) for _, taken in cut(repeat(length), total)]
    return [torch.cat([begin, part]) for part in torch.split(ids[: sum(lengths)], lengths)]
