"""Baseline: the run of consecutive blocks whose output is most like its input is dropped (Gromov et al. 2024, arXiv
2403.17887). Costs one pass over text before the search (`evopress.models.influence`) and one score.
"""

from __future__ import annotations

from collections.abc import Iterator

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError
from evopress.search.baselines.spans import Span, Table, drop, find_spans
from evopress.search.planned import OneBatch


class SlidingWindow(OneBatch):
    """Drop the run of blocks with the largest mean cosine between its input and its output; score that profile once.

    `cosine` is the table of mean token cosines, `Influence.cosine`. BudgetError when no run of blocks that may be
    dropped meets the budget.
    """

    def __init__(self, space: SearchSpace, cosine: Table, *, tokens: int) -> None:
        super().__init__([_most_alike(space, cosine)], tokens=tokens)


def _most_alike(space: SearchSpace, cosine: Table) -> Profile:
    """The first of equals."""
    windows = list(_windows(space, find_spans(space, len(cosine))))

    def likeness(window: tuple[Span, ...]) -> float:
        return cosine[window[0].first][window[-1].last - window[0].first] if window else 1.0

    if not windows:
        raise BudgetError(
            f"no run of consecutive blocks that may be dropped meets the budget of {space.budget}; keep fewer"
        )
    best = max(windows, key=likeness)
    return space.decode(drop(space, best))


def _windows(space: SearchSpace, spans: tuple[Span, ...]) -> Iterator[tuple[Span, ...]]:
    """For each start the shortest run that meets the budget: k blocks where the budget is that of k blocks."""
    for start in range(len(spans)):
        for end in range(start, len(spans) + 1):
            window = spans[start:end]
            if window and not window[-1].droppable:
                break
            if space.fits(drop(space, window)):
                yield window
                break
