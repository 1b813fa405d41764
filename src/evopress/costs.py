"""What profiles cost in files, as data: formats say it, families and budgets add it up, and neither knows the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evopress.errors import BudgetError
from evopress.profile import Profile


@dataclass(frozen=True)
class FileCosts:
    """What the files of an export take at most: `constant` bytes, and for each weight those of its level.

    `levels[unit][level]` counts everything that the choice changes. The sum is never below the true size, and above it
    by no more than paddings and digits in headers, and for dropped parts what llama.cpp's layouts may have to say.

    >>> FileCosts(100, {"a": {"2": 20, "4": 40}}).size(Profile.of({"a": "4"}))
    140
    """

    constant: int
    levels: Mapping[str, Mapping[str, int]]

    def size(self, profile: Profile) -> int:
        """The sum for a profile."""
        return self.constant + sum(self.levels[unit][level] for unit, level in profile.items())


def require_size(size: int, constant: int, costs: Iterable[Sequence[int]], *, stays: int = 0) -> None:
    """BudgetError, with the nearest size, for less than the cheapest profile takes or more than the dearest.

    `costs` are those of each unit's levels, the cheapest first; `stays` is what every profile takes beside `constant`.
    """
    ends = [(own[0], own[-1]) for own in costs]
    low, high = (constant + sum(own) for own in zip(*ends, strict=True))
    if not low + stays <= size <= high:
        raise BudgetError(
            f"no profile takes {size} bytes; the levels allow {low + stays} to {high}, {constant} of them always"
        )
