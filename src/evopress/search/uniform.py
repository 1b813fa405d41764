"""Baseline: the same level everywhere. Costs one score, which is there only so that it can be compared."""

from __future__ import annotations

from evopress.search.planned import Plan, Planned
from evopress.search.types import Batch
from evopress.space import SearchSpace


class Uniform(Planned):
    """Score the best uniform profile once; BudgetError when no level that all units have fits the budget."""

    def __init__(self, space: SearchSpace, *, tokens: int) -> None:
        super().__init__(space.uniform())
        self._tokens = tokens

    def plan(self) -> Plan:
        """One batch of one profile."""
        scores = yield Batch(0, 0, self._tokens, (self.best,))
        self.choose((self.best,), scores)
