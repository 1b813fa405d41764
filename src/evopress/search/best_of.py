"""Baseline: the best of N random profiles that meet the budget. Costs N scores."""

from __future__ import annotations

from random import Random

from evopress.errors import ScheduleError
from evopress.search.planned import Plan, Planned
from evopress.search.starts import random_starts
from evopress.search.types import Batch
from evopress.space import SearchSpace


class BestOf(Planned):
    """Score up to `count` different random profiles as one batch and keep the best."""

    def __init__(self, space: SearchSpace, rng: Random, *, count: int, tokens: int) -> None:
        if count < 1:
            raise ScheduleError(f"best of {count} random profiles cannot be had; ask for 1 or more")
        self._profiles = random_starts(space, count, rng)
        self._tokens = tokens
        super().__init__(self._profiles[0])

    def plan(self) -> Plan:
        """One batch."""
        scores = yield Batch(0, 0, self._tokens, self._profiles)
        self.choose(self._profiles, scores)
