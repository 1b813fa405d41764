"""A profile while it is being changed: level indices with their running cost.

Mutations and start points are made of four things: raise, lower, lower until it fits, raise until nothing more fits.
Each step is at most linear in the number of units, so an offspring of 500 units takes a fraction of a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from evopress.core.space import SearchSpace


class Draft:
    """Mutable level indices. `limit` is what they may cost: the space's budget, until somebody narrows it."""

    def __init__(self, space: SearchSpace, levels: Sequence[int]) -> None:
        self.levels = list(levels)
        self.cost = space.cost(levels)
        self.limit = space.budget
        self._costs, self._steps, self._floors = space.costs, space.steps, space.floors

    @property
    def fits(self) -> bool:
        """Whether the draft is within its limit."""
        return self.cost <= self.limit

    def narrow(self, units: Iterable[int], most: int) -> None:
        """Let `units` cost at most `most` together, beside what the others cost now."""
        self.limit = self.cost + most - sum(self._costs[unit][self.levels[unit]] for unit in units)

    def raisable(self, units: Iterable[int]) -> list[int]:
        """Those of `units` that are neither dropped with a bundle nor at their highest level."""
        return [unit for unit in units if self._floors[unit] <= self.levels[unit] < len(self._steps[unit])]

    def lowerable(self, units: Iterable[int]) -> list[int]:
        """Those of `units` that are not at the lowest level of what is kept."""
        return [unit for unit in units if self.levels[unit] > self._floors[unit]]

    def step_up(self, unit: int) -> int:
        """What raising a raisable unit by one level costs."""
        return self._steps[unit][self.levels[unit]]

    def step_down(self, unit: int) -> int:
        """What lowering a lowerable unit by one level frees."""
        return self._steps[unit][self.levels[unit] - 1]

    def freed(self, units: Iterable[int]) -> dict[int, list[int]]:
        """Those of `units` that can be lowered, by what lowering them by one level frees."""
        found: dict[int, list[int]] = {}
        for unit in units:
            level = self.levels[unit]
            if level > self._floors[unit]:
                found.setdefault(self._steps[unit][level - 1], []).append(unit)
        return found

    def affordable(self, units: Iterable[int]) -> list[int]:
        """Those of `units` that can be raised within the limit."""
        slack, levels, steps, floors = self.limit - self.cost, self.levels, self._steps, self._floors
        if slack <= 0:
            return []
        return [
            unit
            for unit in units
            if floors[unit] <= levels[unit] < len(steps[unit]) and steps[unit][levels[unit]] <= slack
        ]

    def put(self, unit: int, level: int) -> None:
        """Give a unit this level, whatever it has."""
        self.cost += self._costs[unit][level] - self._costs[unit][self.levels[unit]]
        self.levels[unit] = level

    def up(self, unit: int) -> None:
        """Raise a unit by one level."""
        self.cost += self.step_up(unit)
        self.levels[unit] += 1

    def down(self, unit: int) -> None:
        """Lower a unit by one level."""
        self.cost -= self.step_down(unit)
        self.levels[unit] -= 1

    def shrink(self, units: Iterable[int], rng: Random) -> list[int]:
        """Lower random ones of `units`, one level at a time, until the draft fits or all are at their lowest.

        Returns the units that were lowered, in order, with repetitions.
        """
        lowered: list[int] = []
        pool = [] if self.fits else self.lowerable(units)
        while pool and not self.fits:
            at = rng.randrange(len(pool))
            lowered.append(pool[at])
            self.down(pool[at])
            if self.levels[pool[at]] == self._floors[pool[at]]:
                drop(pool, at)
        return lowered

    def fill(self, units: Iterable[int], rng: Random) -> bool:
        """Raise random ones of `units`, one level at a time, until no step fits. Returns whether any did."""
        pool = self.affordable(units)
        if not pool:
            return False
        while pool:
            self.up(rng.choice(pool))
            pool = self.affordable(pool)
        return True


def drop(pool: list[int], at: int) -> int:
    """Take `pool[at]` out in constant time; the order of a pool that is drawn from at random carries no meaning."""
    pool[at], pool[-1] = pool[-1], pool[at]
    return pool.pop()
