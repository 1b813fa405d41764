"""Bundles: units that a dropped sub-layer or block takes with it, so they have the level `drop` together or not at all.

A bundle is a tuple of unit indices; the first level of its units is `drop` and costs nothing. One bundle has to stay:
a model without all of them answers nothing. All is linear in the number of units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evopress.core.profile import DROP, Unit
from evopress.errors import ProfileError

Bundles = tuple[tuple[int, ...], ...]


def floors(count: int, bundles: Bundles) -> tuple[int, ...]:
    """For each of `count` units the lowest level that it can have while it is kept.

    >>> floors(3, ((0, 2),))
    (1, 0, 1)
    """
    inside = {unit for bundle in bundles for unit in bundle}
    return tuple(int(unit in inside) for unit in range(count))


def dropped(bundles: Bundles, levels: Sequence[int]) -> list[int]:
    """The positions of the bundles that these level indices drop."""
    return [at for at, bundle in enumerate(bundles) if not levels[bundle[0]]]


def whole(bundles: Bundles, levels: Sequence[int]) -> bool:
    """Whether no bundle is dropped by half, and one stays, where there are any."""
    return _half(bundles, levels) is None and (not bundles or len(dropped(bundles, levels)) < len(bundles))


def require_whole(units: Sequence[Unit], bundles: Bundles, levels: Sequence[int]) -> None:
    """ProfileError where a bundle is dropped by half, or where none stays."""
    if (half := _half(bundles, levels)) is not None:
        gone = next(unit for unit in half if not levels[unit])
        kept = next(unit for unit in half if levels[unit])
        raise ProfileError(
            f"{units[gone].name} is dropped and {units[kept].name} is not; drop all weights of a part, or none"
        )
    if not whole(bundles, levels):
        raise ProfileError(f"the profile drops all {len(bundles)} parts that can be dropped; one has to stay")


def check_bundles(units: Sequence[Unit], bundles: Bundles) -> None:
    """ProfileError where bundles share units, or their units have no level `drop` of cost 0, or others have one."""
    inside = [unit for bundle in bundles for unit in bundle]
    if len(set(inside)) != len(inside) or not all(bundles):
        raise ProfileError(f"the {len(bundles)} bundles share units, or are empty; put each unit into one at most")
    for unit in inside:
        levels = units[unit].levels
        if (levels[0].name, levels[0].cost) != (DROP, 0) or len(levels) < 2:
            raise ProfileError(f"unit {units[unit].name} is in a bundle; its first level must be {DROP}, at no cost")


def cheapest(costs: Sequence[Sequence[int]], bundles: Bundles) -> int:
    """The cost of the cheapest profile: all but one bundle dropped, everything else at its lowest level."""
    least = sum(own[0] for own in costs)
    return least + min((sum(costs[unit][1] for unit in bundle) for bundle in bundles), default=0)


def count(widths: Sequence[int], bundles: Bundles) -> int:
    """How many profiles there are of units with so many levels each, the budget left aside."""
    inside = {unit for bundle in bundles for unit in bundle}
    found = math.prod(own for unit, own in enumerate(widths) if unit not in inside)
    kept = [math.prod(widths[unit] - 1 for unit in bundle) for bundle in bundles]
    return found * (math.prod(1 + own for own in kept) - bool(bundles))


def _half(bundles: Bundles, levels: Sequence[int]) -> tuple[int, ...] | None:
    """The first bundle of which only a part is dropped."""
    return next((bundle for bundle in bundles if 0 < sum(not levels[unit] for unit in bundle) < len(bundle)), None)
