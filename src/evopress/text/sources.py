"""From what a user writes as data to its text: the names that evopress knows, hub datasets and local files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evopress.errors import DataError
from evopress.text import hub
from evopress.text.documents import Text, split_documents
from evopress.text.localfiles import FIELD, READERS, Render, read_documents, require_suffix
from evopress.text.wikipedia import demo_articles

HUB_NAMED: dict[str, Callable[[int], Text]] = {
    "wikitext2": hub.wikitext2,
    "c4": hub.c4,
    "fineweb_edu": hub.fineweb_edu,
}
NAMES = ("demo", *HUB_NAMED)


def open_text(source: str, seed: int, passage: int, field: str = FIELD, render: Render | None = None) -> Text:
    """Training and held-out documents of a source: a name, `hub:NAME[:CONFIG[:SPLIT]]` or the path of a file.

    The demo's articles and the documents of files are cut into passages of about `passage` characters. `field` is where
    files and datasets of the hub have their text, `render` makes text of chat messages.

    Raises:
        DataError: the source is unknown (the message lists what is known), missing, empty or unreadable.
        MissingExtra: it needs a package that is not installed.
    """
    if source == "demo":
        articles = (f"{title}\n\n{text}" for title, text in demo_articles())
        return split_documents(source, articles, seed, passage)
    if source in HUB_NAMED:
        return HUB_NAMED[source](seed)
    if source.startswith(hub.HUB_PREFIX):
        return hub.hub_dataset(source, seed, field)
    return split_documents(source, read_documents(_path(source), field, render), seed, passage)


def open_heldout(source: str, passage: int, field: str = FIELD, render: Render | None = None) -> Text:
    """What `evaluate` scores: the held-out documents of a named source, all documents of a file."""
    if _named(source):
        return open_text(source, 0, passage, field)
    return Text(source, (), read_documents(_path(source), field, render))


def require_source(source: str) -> None:
    """DataError for what is no name and no file of a known suffix; cheap enough to ask before a model is loaded."""
    if not _named(source):
        require_suffix(_path(source))


def _named(source: str) -> bool:
    return source in NAMES or source.startswith(hub.HUB_PREFIX)


def _path(source: str) -> Path:
    path = Path(source).expanduser()
    if not source or not (path.suffix or path.exists()):
        files = ", ".join(READERS)
        raise DataError(f"unknown data {source!r}; give {', '.join(NAMES)}, {hub.HUB_PREFIX}NAME or a {files} file")
    return path
