"""Text that is split into training and held-out documents before any tokenizer sees it.

What is calibrated and searched on must never be scored as held-out text, so the split is made on whole documents and
depends on their content alone: not on the seed, not on how many tokens are asked for, not on their order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HELDOUT_SHARE = 5  # every fifth document is held out


@dataclass(frozen=True)
class Text:
    """Two streams of documents without a common document; each may be iterated once.

    `packed` documents are concatenated before they are cut into sequences, the others are only cut where too long.
    `whole_windows` says that a published protocol scores full windows and drops the rest of the text.
    """

    name: str
    training: Iterable[str]
    heldout: Iterable[str]
    packed: bool = True
    whole_windows: bool = False


def split_documents(name: str, documents: Iterable[str], seed: int, passage: int) -> Text:
    """Hold out every fifth of the distinct documents, in the order of their digests; a single one by its last fifth.

    Long documents are then cut into passages of about `passage` characters. The seed shuffles the training passages;
    the held-out ones come in the order of their digests: few tokens, too, come from many documents. Costs the memory of
    all documents.
    """
    distinct = sorted(set(documents), key=_digest)
    if len(distinct) == 1:
        first, last = _split_one(distinct[0])
        training, heldout = _cut([first], passage), _cut([last], passage)
    else:
        training = _cut((text for i, text in enumerate(distinct) if i % HELDOUT_SHARE), passage)
        heldout = _cut(distinct[::HELDOUT_SHARE], passage)
    random.Random(seed).shuffle(training)
    return Text(name, training, sorted(heldout, key=_digest))


def passages(document: str, length: int) -> Iterator[str]:
    r"""The document in parts of at most `length` characters, cut after a line end where there is one, else at a space.

    >>> list(passages("one\ntwo\nthree", 9))
    ['one\ntwo\n', 'three']
    """
    start = 0
    while len(document) - start > length:
        end = start + length
        cuts = (document.rfind(separator, start, end) + 1 for separator in ("\n", " "))
        end = next((cut for cut in cuts if cut), end)
        yield document[start:end]
        start = end
    yield document[start:]


def is_heldout(document: str) -> bool:
    """The same share for a stream too long to be sorted: about every fifth document, by its digest."""
    return _digest(document)[0] % HELDOUT_SHARE == 0


def _cut(documents: Iterable[str], length: int) -> list[str]:
    parts = (part.strip("\n") for document in documents for part in passages(document, length))
    return [part for part in parts if part.strip()]


def _digest(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", errors="surrogatepass")).digest()


def _split_one(document: str) -> tuple[str, str]:
    """Cut off the last fifth, at the first line end in it, else at a space, else anywhere."""
    start = len(document) - len(document) // HELDOUT_SHARE
    for separator in ("\n", " "):
        if (found := document.find(separator, start)) >= 0:
            return document[:found], document[found + 1 :]
    return document[:start], document[start:]
