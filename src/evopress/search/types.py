"""What a search and its surroundings say to each other: batches of profiles go out, scores come back.

This is the only place where search and fitness meet. A score is a float, lower is better; everything that is not
finite counts as worse than everything that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evopress.core.profile import Profile

Evaluate = Callable[[Sequence[Profile], int], list[float]]
"""Scores for profiles on that many tokens. All profiles of a call see one minibatch; each call draws a fresh one."""


Reread = Callable[[Sequence[Profile], int, int], list[float]]
"""The same on a part of the text: part number n is the same tokens at every call. An `Evaluate` may have it as its
attribute `reread`, and then a race can go back to text that it has scored on.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Profiles to be scored together. Generation 0 holds start candidates; `stage` counts from 0 in a generation, and
    the parts of a race count on. `part` is the text to score on, None for a fresh minibatch.
    """

    generation: int
    stage: int
    tokens: int
    profiles: tuple[Profile, ...]
    part: int | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What happened to a batch, for those who watch.

    `replayed`: the scores came from the journal. `accepted`: None while the generation goes on; at its end, whether
    a new parent was taken. `best` and `score` are the strategy's after the batch.
    """

    batch: Batch
    scores: tuple[float, ...]
    replayed: bool
    accepted: bool | None
    best: Profile
    score: float


class Strategy(Protocol):
    """A search that is asked for batches and told their scores, strictly in turn."""

    @property
    def best(self) -> Profile:
        """The profile to use if the search ended now."""

    @property
    def score(self) -> float:
        """The last score of `best`; nan if it was never scored."""

    @property
    def accepted(self) -> bool | None:
        """Whether the last `tell` ended a generation with a new `best`; None when it ended none."""

    @property
    def stopped(self) -> str:
        """Why the search ended early; empty when it did not."""

    def ask(self) -> Batch | None:
        """The batch to score next, the same one until it is told; None when the search is over."""

    def tell(self, scores: Sequence[float]) -> None:
        """The scores of the batch last asked for, in its order."""
