"""Writing files so that a kill at any moment leaves either the old content or the new, never half of it.

Every file that evopress trusts later (manifest, unit files, profiles, exported shards) goes through here. The cost is
one fsync of the file and one of its directory for each write.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from evopress.errors import ConfigError, ResourceError

PARTIAL = ".partial"
"""Ending of the names of files and directories that are not whole yet."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the body ends without an error it is synced and takes `path`'s place.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    temporary = path.with_name(path.name + PARTIAL)
    try:
        with naming_a_full_disk(path.parent):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_a_full_disk(directory: Path) -> Iterator[None]:
    """Whatever says that a disk is full becomes one ResourceError; libraries in Rust say so in errors of their own."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code not in _FULL and not any(f"(os error {number})" in str(error) for number in _FULL):
            raise
        free = size(shutil.disk_usage(directory).free)
        raise ResourceError(f"the disk of {directory} is full, {free} are left; free some and run again") from error


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` with `text`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_disk(directory: Path, needed: int, purpose: str) -> None:
    """ResourceError unless the file system of `directory` has `needed` free bytes for `purpose`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ResourceError(f"{purpose} needs {size(needed)} of disk but {directory} has {size(free)} free")


def size(count: float) -> str:
    """A number of bytes in words: `1.4 GB`.

    >>> size(1_400_000_000)
    '1.4 GB'
    """
    for name in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_size(text: str | int) -> int:
    """Bytes from words; ConfigError for what is no size.

    >>> parse_size("100MB"), parse_size("1.5 GiB"), parse_size(2048)
    (100000000, 1610612736, 2048)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?", str(text).strip())
    if not found:
        raise ConfigError(f"the size is {text!r}; give a number and B, kB, MB, GB or MiB, GiB, such as 100MB")
    number, prefix, binary = found.groups()
    return int(Fraction(number) * (1024 if binary else 1000) ** " kMGT".index(prefix.replace("K", "k") or " "))


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a directory, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
