"""Baseline: drop the units of the least score, whatever measured it, and score that profile once."""

from __future__ import annotations

from collections.abc import Mapping

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.search.planned import OneBatch


class Scored(OneBatch):
    """The profile of `least`, scored on `tokens`."""

    def __init__(self, space: SearchSpace, scores: Mapping[str, float], *, tokens: int) -> None:
        super().__init__([least(space, scores)], tokens=tokens)


def least(space: SearchSpace, scores: Mapping[str, float]) -> Profile:
    """The lowest level for the units of the least `scores` by name, the first of equals, until each limit is met; all
    others keep their highest.
    """
    levels = [len(unit.levels) - 1 for unit in space.units]
    for units, most in space.limits:
        cost = sum(space.costs[unit][-1] for unit in units)
        free = [unit for unit in units if len(space.costs[unit]) > 1]
        for unit in sorted(free, key=lambda unit: scores[space.units[unit].name]):
            if cost <= most:
                break
            cost -= space.costs[unit][-1] - space.costs[unit][0]
            levels[unit] = 0
    return space.decode(tuple(levels))
