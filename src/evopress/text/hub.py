"""Datasets of the Hugging Face hub: the three that the paper uses, by its protocol, and any other by name.

The library `datasets` is imported only when one is asked for. It raises errors of a dozen kinds, from HTTP to parsing,
while it opens a dataset and while it streams one; all become one DataError that names the dataset.

Protocols (paper, section 4 and appendix): WikiText-2's raw test text joined by two newlines; the first 1,100 documents
of C4's first validation shard likewise; FineWeb-Edu's documents unpacked. No BOS: `--preset paper`.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from evopress.errors import DataError, MissingExtra
from evopress.text.documents import Text, is_heldout

HUB_PREFIX = "hub:"
_C4_REVISION = "607bd4c8450a42878aa9ddc051a65a055450ef87"
_C4_HELDOUT_DOCUMENTS = 1100
_SHUFFLE_BUFFER = 10_000  # documents of a stream that are held to be shuffled
_WIKITEXT_TITLE = re.compile(r" = [^=].* = \n?")


def wikitext2(seed: int) -> Text:
    """WikiText-2 raw: articles of the training split; the test split as one document."""
    training = _stream("wikitext2", "Salesforce/wikitext", name="wikitext-2-raw-v1", split="train")
    test = _stream("wikitext2", "Salesforce/wikitext", name="wikitext-2-raw-v1", split="test")
    return Text("wikitext2", _shuffled(_articles(training), seed), _joined(test), whole_windows=True)


def c4(seed: int) -> Text:
    """C4 English: documents of the first training shard; 1,100 documents of the first validation shard as one."""
    training = _c4_shard("train", "en/c4-train.00000-of-01024.json.gz", shuffle_seed=seed)
    validation = _c4_shard("validation", "en/c4-validation.00000-of-00008.json.gz")
    return Text("c4", training, _joined(islice(validation, _C4_HELDOUT_DOCUMENTS)), whole_windows=True)


def fineweb_edu(seed: int) -> Text:
    """FineWeb-Edu's 10-billion-token sample, not packed; about every fifth document is held out."""
    return _hashed("fineweb_edu", "HuggingFaceFW/fineweb-edu", seed, packed=False, name="sample-10BT", split="train")


def hub_dataset(source: str, seed: int, field: str = "text") -> Text:
    """Any hub dataset with a column `field`: `hub:NAME[:CONFIG[:SPLIT]]`, by default the split `train`."""
    name, *rest = source.removeprefix(HUB_PREFIX).split(":")
    if not name or len(rest) > 2:
        raise DataError(f"{source!r} names no hub dataset; write {HUB_PREFIX}NAME, or {HUB_PREFIX}NAME:CONFIG:SPLIT")
    config, split = (*rest, "", "")[:2]
    return _hashed(source, name, seed, packed=True, field=field, name=config or None, split=split or "train")


def _hashed(source: str, dataset: str, seed: int, *, packed: bool, **options: Any) -> Text:
    """One split of a dataset, divided by the documents' digests; only the training part is shuffled."""
    training = _stream(source, dataset, shuffle_seed=seed, **options)
    heldout = _stream(source, dataset, **options)
    return Text(
        source,
        (document for document in training if not is_heldout(document)),
        (document for document in heldout if is_heldout(document)),
        packed=packed,
    )


def _c4_shard(split: str, file: str, shuffle_seed: int | None = None) -> Iterator[str]:
    options: dict[str, Any] = {"data_files": {split: file}, "split": split, "revision": _C4_REVISION}
    return _stream("c4", "allenai/c4", shuffle_seed, **options)


def _stream(
    source: str, dataset: str, shuffle_seed: int | None = None, field: str = "text", **options: Any
) -> Iterator[str]:
    """The texts of a dataset, downloaded as they are read, from the first request on; null texts are skipped.

    Raises:
        MissingExtra: `datasets` is not installed.
        DataError: the dataset cannot be opened or read, or has no column `field` of text.
    """
    load = _load_dataset(source)
    try:
        rows = load(dataset, streaming=True, **options)
        if shuffle_seed is not None:
            rows = rows.shuffle(seed=shuffle_seed, buffer_size=_SHUFFLE_BUFFER)
        for row in rows:
            if field in row and row[field] is None:
                continue
            if not isinstance(row.get(field), str):
                raise DataError(
                    f"{source} has the columns {', '.join(row)}; one must be called {field!r} and hold text"
                )
            yield row[field]
    except DataError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{source} cannot be read from the hub ({dataset}): {reason}") from error


def _load_dataset(source: str) -> Callable[..., Any]:
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtra(f"{source} needs datasets, which is not installed: pip install 'evopress[data]'")
    import datasets

    load: Callable[..., Any] = datasets.load_dataset
    return load


def _joined(documents: Iterator[str]) -> Iterator[str]:
    """One document of all, joined by two newlines; nothing is read before it is asked for."""
    yield "\n\n".join(documents)


def _shuffled(documents: Iterator[str], seed: int) -> Iterator[str]:
    """All documents in an order that depends on the seed; nothing is read before the first is asked for."""
    order = list(documents)
    random.Random(seed).shuffle(order)
    yield from order


def _articles(lines: Iterator[str]) -> Iterator[str]:
    """WikiText's lines put together again to articles, lines joined by two newlines as in the test text."""
    article: list[str] = []
    for line in lines:
        if _WIKITEXT_TITLE.fullmatch(line) and article:
            yield "\n\n".join(article)
            article = []
        article.append(line)
    if article:
        yield "\n\n".join(article)
