"""An exported directory is one that a loader accepts only when it is whole, whatever happens while it is written.

Until then it is DIRECTORY.partial, and the file that loaders look for first (`config.json`, a `.gguf`) carries the
ending `.partial`, too: it gets its name after the directory has its own, as the very last step. An earlier export stays
whole until the new one takes its place. After a kill the next export clears away what is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evopress.core.files import PARTIAL, naming_a_full_disk, require_disk, sync
from evopress.errors import RunError
from evopress.formats.card import is_card

ENTRIES = ("config.json", "*.gguf", "tensor-types.txt")
"""Files by which loaders know a checkpoint."""


@contextmanager
def staged(directory: Path, size: int) -> Iterator[Path]:
    """The empty directory to write to; it replaces an earlier export at `directory` once the block ends without error.

    Write config.json, or hide it with `hidden`, before the weights: a directory that has both is one that loads.
    RunError when something else than an export of ours is there; ResourceError when the disk has less than `size` bytes
    left or fills up on the way. After an error nothing new is left.
    """
    if directory.exists() and not _is_replaceable(directory):
        raise RunError(f"{directory} exists and is no export of evopress; give a new directory for the export")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(directory.name + PARTIAL)
    _remove(partial)
    require_disk(directory.parent, size, "the export")
    try:
        with naming_a_full_disk(directory.parent):
            partial.mkdir()
            yield partial
            withdraw(partial)
            for file in partial.rglob("*"):
                sync(file)
            _replace(directory, partial)
    finally:
        _remove(partial)


def hidden(entry: Path) -> Path:
    """Where to write the file that loaders look for first, until all others are written."""
    return entry.with_name(entry.name + PARTIAL)


def is_whole(directory: Path) -> bool:
    """Whether a directory is a finished export, by its names alone."""
    return bool(_entries(directory)) and not any(directory.glob(f"*{PARTIAL}"))


def withdraw(directory: Path) -> None:
    """Make a finished export one that is not whole: loaders refuse it, the next export replaces it."""
    for entry in _entries(directory):
        os.replace(entry, hidden(entry))


def _is_replaceable(directory: Path) -> bool:
    """Whether nothing is lost by writing there: an empty directory, or an export, finished or not. Else it may be the
    very model that is compressed.
    """
    if not directory.is_dir():
        return False
    return is_card(directory) or bool(_entries(directory, PARTIAL)) or not any(directory.iterdir())


def _entries(directory: Path, ending: str = "") -> list[Path]:
    return [entry for name in ENTRIES for entry in directory.glob(name + ending)]


def _replace(directory: Path, partial: Path) -> None:
    earlier = directory.with_name(f"{directory.name}.earlier{PARTIAL}")
    if directory.exists():
        _remove(earlier)
        os.replace(directory, earlier)
    os.replace(partial, directory)
    for entry in directory.glob(f"*{PARTIAL}"):
        os.replace(entry, entry.with_name(entry.name.removesuffix(PARTIAL)))
    sync(directory)
    sync(directory.parent)
    _remove(earlier)


def _remove(directory: Path) -> None:
    """First what makes loaders accept it, then the rest."""
    for entry in _entries(directory):
        entry.unlink()
    shutil.rmtree(directory, ignore_errors=True)
