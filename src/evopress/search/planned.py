"""Ask and tell, written as a plan that reads from top to bottom.

A strategy is a state machine when seen from outside and a plain loop when seen from inside. `Planned` turns the loop,
a generator that yields a batch and receives its scores, into the two methods, so that no strategy keeps state by hand.
Most baselines know all their candidates in advance: these are an `OneBatch`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from evopress.core.profile import Profile
from evopress.search.effort import Effort
from evopress.search.types import Batch

Plan = Generator[Batch, list[float], None]


class Planned(ABC):
    """A strategy whose whole course is one generator, `plan`. It implements `evopress.search.types.Strategy`."""

    def __init__(self, best: Profile) -> None:
        self.best = best
        self.score = math.nan
        self.accepted: bool | None = None
        self.stopped = ""
        self._plan: Plan | None = None
        self._batch: Batch | None = None

    @abstractmethod
    def plan(self) -> Plan:
        """Yield batches, receive their scores, keep `best` and `score`; set `accepted` where a generation ends."""

    def ask(self) -> Batch | None:
        """The batch to score next; None when the search is over."""
        if self._plan is None:
            self._plan = self.plan()
            self._batch = next(self._plan, None)
        return self._batch

    def tell(self, scores: Sequence[float]) -> None:
        """Hand over the scores of the batch last asked for; ValueError when there is none or the count differs."""
        if self._plan is None or self._batch is None:
            raise ValueError("tell() has no batch to belong to; call ask() first")
        if len(scores) != len(self._batch.profiles):
            raise ValueError(f"{len(scores)} scores for {len(self._batch.profiles)} profiles; tell one for each")
        self.accepted = None
        try:
            self._batch = self._plan.send([float(score) for score in scores])
        except StopIteration:
            self._batch = None

    def choose(self, profiles: Sequence[Profile], scores: Sequence[float]) -> None:
        """End a one-batch generation: the best of `profiles` becomes `best`, ties go to the first."""
        winner = ranked(scores)[0]
        self.best, self.score, self.accepted = profiles[winner], scores[winner], True


class OneBatch(Planned):
    """Score given profiles as one batch and keep the best, the first of equals. `effort` says what that takes."""

    def __init__(self, profiles: Sequence[Profile], *, tokens: int) -> None:
        self._profiles, self._tokens = tuple(profiles), tokens
        super().__init__(self._profiles[0])

    @property
    def effort(self) -> Effort:
        """What will be scored."""
        return Effort(len(self._profiles), self._tokens)

    def plan(self) -> Plan:
        """One batch."""
        scores = yield Batch(0, 0, self._tokens, self._profiles)
        self.choose(self._profiles, scores)


def ranked(scores: Sequence[float]) -> list[int]:
    """Positions from best to worst: lowest first, ties in their order, all that is not finite last.

    >>> ranked([0.5, float("nan"), 0.25, float("-inf"), 0.25])
    [2, 4, 0, 1, 3]
    """
    return sorted(range(len(scores)), key=lambda i: (0, scores[i]) if math.isfinite(scores[i]) else (1, 0.0))
