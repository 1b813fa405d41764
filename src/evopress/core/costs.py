"""What profiles cost in files, as data: formats say it, families and budgets add it up, and neither knows the other.

And what is said where no profile costs what was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from evopress.core.profile import Profile
from evopress.errors import BudgetError


@dataclass(frozen=True)
class FileCosts:
    """What the files of an export take at most: `constant` bytes, and for each weight those of its level.

    `levels[unit][level]` counts everything that the choice changes, `parts` what is beside levels in those parts of the
    model that can be left out. The sum is never below the true size, and above it
    by no more than paddings and digits in headers, and for dropped parts what llama.cpp's layouts may have to say.

    >>> FileCosts(100, {"a": {"2": 20, "4": 40}}).size(Profile.of({"a": "4"}))
    140
    """

    constant: int
    levels: Mapping[str, Mapping[str, int]]
    parts: Mapping[str, int] = field(default_factory=dict)

    def size(self, profile: Profile) -> int:
        """The sum for a profile that leaves out no part."""
        return (
            self.constant + sum(self.parts.values()) + sum(self.levels[unit][level] for unit, level in profile.items())
        )


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


def require_average(target: Fraction, whole: int, low: int, high: int, asked: str) -> None:
    """BudgetError, with what the levels allow, where `target` times `whole` is not in `low` to `high`.

    `asked` says what was asked for. Nothing can be wrong where `whole` is 0.

    >>> require_average(Fraction(3), 100, 200, 400, "the average 3")
    """
    if whole > 0 and not low <= target * whole <= high:
        raise BudgetError(
            f"{asked} cannot be met; the levels allow "
            f"{_decimal(Fraction(low, whole), math.ceil)} to {_decimal(Fraction(high, whole), math.floor)}"
        )


def _decimal(value: Fraction, rounding: Callable[[Fraction], int]) -> str:
    """Four decimals, rounded inwards, so that the number in a message is itself a possible average."""
    return f"{float(Fraction(rounding(value * 10_000), 10_000)):.10g}"
