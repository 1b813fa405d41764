"""What an analysis hands to whoever prints it: text in rows, as only it knows how many digits are worth showing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the heads of the columns, and rows of as many cells."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
