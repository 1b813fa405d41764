"""Baseline: the best of N random profiles that meet the budget. Costs N scores."""

from __future__ import annotations

from random import Random

from evopress.core.space import SearchSpace
from evopress.errors import ScheduleError
from evopress.search.planned import OneBatch
from evopress.search.starts.drawn import random_starts


class BestOf(OneBatch):
    """Score up to `count` different random profiles as one batch and keep the best."""

    def __init__(self, space: SearchSpace, rng: Random, *, count: int, tokens: int) -> None:
        if count < 1:
            raise ScheduleError(f"best of {count} random profiles cannot be had; ask for 1 or more")
        super().__init__(random_starts(space, count, rng), tokens=tokens)
