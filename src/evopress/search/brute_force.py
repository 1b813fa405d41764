"""Baseline: every profile that meets the budget. For small spaces, where it proves what the optimum is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from evopress.errors import ConfigError
from evopress.search.mutation import Indices
from evopress.search.planned import Plan, Planned
from evopress.search.types import Batch
from evopress.space import SearchSpace


def all_profiles(space: SearchSpace) -> Iterator[Indices]:
    """The level indices of every profile within the budget, in lexicographic order.

    Every step of the enumeration leads to at least one profile, so the first N take O(N * units) however large the
    space is.
    """
    rest = [0]
    for costs in reversed(space.costs):
        rest.append(rest[-1] + costs[0])
    rest.reverse()

    def extend(chosen: Indices, cost: int) -> Iterator[Indices]:
        unit = len(chosen)
        if unit == len(space.units):
            yield chosen
            return
        for level, own in enumerate(space.costs[unit]):
            if cost + own + rest[unit + 1] > space.budget:
                break
            yield from extend((*chosen, level), cost + own)

    return extend((), 0)


class BruteForce(Planned):
    """Score all profiles of a space as one batch; ConfigError when there are more than `limit`."""

    def __init__(self, space: SearchSpace, *, tokens: int, limit: int = 10_000) -> None:
        found = list(islice(all_profiles(space), limit + 1))
        if len(found) > limit:
            raise ConfigError(f"more than {limit} profiles meet the budget; brute force is for smaller spaces")
        self._profiles = tuple(space.decode(indices) for indices in found)
        self._tokens = tokens
        super().__init__(self._profiles[0])

    def plan(self) -> Plan:
        """One batch."""
        scores = yield Batch(0, 0, self._tokens, self._profiles)
        self.choose(self._profiles, scores)
