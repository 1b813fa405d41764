"""Baseline: the same level everywhere. Costs one score, which is there only so that it can be compared."""

from __future__ import annotations

from evopress.core.space import SearchSpace
from evopress.search.planned import OneBatch


class Uniform(OneBatch):
    """Score the best uniform profile once; BudgetError when no level that all units have fits the budget."""

    def __init__(self, space: SearchSpace, *, tokens: int) -> None:
        super().__init__([space.uniform()], tokens=tokens)
