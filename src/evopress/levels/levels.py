"""Levels of sparsity as whole numbers of zeros, so that any exchange between two layers keeps the total exact.

Pure integer arithmetic on layer sizes: no tensor, no rounding that depends on the machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from evopress.errors import ConfigError

EACH_WAY = 4  # an automatic step leaves every layer at least this many levels above and below its base
REACH = 8  # levels each way where there is room, as in the paper


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity: of every `group` consecutive weights of a row, `kept` stay.

    >>> print(Pattern(kept=2, group=4), Pattern(kept=2, group=4).zeros((3, 8)))
    2:4 12
    """

    kept: int
    group: int

    def __post_init__(self) -> None:
        if self.group < 1 or not 0 <= self.kept <= self.group:
            raise ConfigError(f"pattern is {self}, must be N:M with N from 0 to M and M at least 1")

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    def zeros(self, shape: tuple[int, int]) -> int:
        """Zeros of a matrix (rows, columns); ConfigError when the columns are no multiple of the group."""
        rows, columns = shape
        if columns % self.group:
            raise ConfigError(f"pattern {self} does not fit {columns} columns, {self.group} must divide them")
        return rows * columns // self.group * (self.group - self.kept)


Sparsity = int | Pattern
"""One level: the exact number of zeros of a matrix, placed freely, or an N:M pattern."""


def count_zeros(sparsity: Sparsity, shape: tuple[int, int]) -> int:
    """Zeros of a matrix (rows, columns) at a level; ConfigError when the level does not fit the matrix."""
    if isinstance(sparsity, Pattern):
        return sparsity.zeros(shape)
    if not 0 <= sparsity <= shape[0] * shape[1]:
        raise ConfigError(f"{sparsity} zeros do not fit a weight of shape {shape}, must be 0 to {shape[0] * shape[1]}")
    return sparsity


def check_levels(levels: Sequence[Sequence[Sparsity]], shapes: Sequence[tuple[int, int]]) -> None:
    """ConfigError unless there is one list of `levels` for each of `shapes` and every level fits."""
    if len(levels) != len(shapes):
        raise ConfigError(f"levels are given for {len(levels)} weights, must be for all {len(shapes)}")
    for own, shape in zip(levels, shapes, strict=True):
        for sparsity in own:
            count_zeros(sparsity, shape)


def spread(total: int, sizes: Sequence[int]) -> list[int]:
    """Cut `total` into parts proportional to `sizes`, each off by less than one, whose sum is exact.

    No part exceeds its size as long as `total` does not exceed their sum: the parts before any point hold the rounded
    down share of what lies before it.

    >>> spread(7, [4, 4, 2])
    [2, 3, 2]
    """
    whole = sum(sizes)
    parts, seen, given = [], 0, 0
    for size in sizes:
        seen += size
        parts.append(total * seen // whole - given)
        given += parts[-1]
    return parts


def base_zeros(sizes: Sequence[int], sparsity: Fraction | str | float) -> list[int]:
    """Zeros of each layer at the target `sparsity` of all: ceil(sparsity * weights) together, the same share each.

    The decimal that is written counts: 0.6 is 6/10, "2/3" is understood. Rounding up keeps the kept weights within
    their budget. ConfigError for a sparsity outside [0, 1) or layers without weights.

    >>> base_zeros([10, 10, 4], 0.6)
    [6, 6, 3]
    """
    try:
        target = Fraction(str(sparsity))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"sparsity {sparsity!r} is not a number, give one such as 0.6 or '2/3'") from None
    if not 0 <= target < 1:
        raise ConfigError(f"sparsity is {sparsity}, must be at least 0 and below 1")
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"layer sizes are {list(sizes)}, must be one or more positive numbers of weights")
    return spread(math.ceil(target * sum(sizes)), sizes)


def automatic_step(sizes: Sequence[int], sparsity: Fraction | str | float) -> int:
    """The largest step, in weights, that leaves every layer EACH_WAY levels above and below its base.

    The layer with the least room decides, since all share one step. ConfigError when it has too few weights.

    >>> automatic_step([100, 1000], 0.7)
    7
    """
    rooms = [min(base, size - base) for base, size in zip(base_zeros(sizes, sparsity), sizes, strict=True)]
    tightest = min(range(len(sizes)), key=rooms.__getitem__)
    if rooms[tightest] < EACH_WAY:
        raise ConfigError(
            f"layer {tightest} of {sizes[tightest]} weights has no {EACH_WAY} levels each way of sparsity {sparsity}, "
            f"give a step in weights"
        )
    return rooms[tightest] // EACH_WAY


def sparsity_levels(
    sizes: Sequence[int], sparsity: Fraction | str | float, *, step: int | None = None, reach: int = REACH
) -> list[list[tuple[int, int]]]:
    """For each layer its levels as (offset, zeros): its base zeros plus offset times `step`, offsets -reach to reach.

    Levels below 0 or above 100 % of a layer are left out. Every layer takes the same `step` in weights (the paper:
    1,000,000), so one layer can always give another exactly what that one takes; None is `automatic_step`. Offset 0
    everywhere has exactly ceil(sparsity * weights) zeros. At sparsity 0 nothing can be exchanged, and without a step
    each layer has its one level. ConfigError for a sparsity outside [0, 1), a step or a reach below 1.

    >>> sparsity_levels([8, 12], 0.5, step=3)
    [[(-1, 1), (0, 4), (1, 7)], [(-2, 0), (-1, 3), (0, 6), (1, 9), (2, 12)]]
    """
    base = base_zeros(sizes, sparsity)
    if step is None:
        if not any(base):
            return [[(0, 0)] for _ in base]
        step = automatic_step(sizes, sparsity)
    if step < 1 or reach < 1:
        raise ConfigError(f"step is {step} weights and reach {reach} levels, both must be at least 1")
    return [
        [(offset, zeros + offset * step) for offset in range(-reach, reach + 1) if 0 <= zeros + offset * step <= size]
        for zeros, size in zip(base, sizes, strict=True)
    ]
