"""An exported checkpoint appears under its name only when it is whole: until then it is DIRECTORY.partial."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evopress.errors import RunError
from evopress.files import require_disk


@contextmanager
def staged(directory: Path, size: int) -> Iterator[Path]:
    """The empty directory to write to; it replaces an earlier export at `directory` once the block ends without error.

    RunError when something else than a checkpoint is there, or when the disk has less than `size` bytes left.
    """
    if directory.exists() and not (directory / "config.json").is_file():
        raise RunError(f"{directory} exists and holds no checkpoint; give a new directory for the export")
    directory.parent.mkdir(parents=True, exist_ok=True)
    require_disk(directory.parent, size, "the export")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(partial, directory)
