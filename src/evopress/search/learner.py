"""What a search says to those of its parts that learn while it runs: every batch of scores that was paid for.

A learner's state is a function of the evidence it was given, in order. A replayed journal gives the same evidence, so a
resumed search has the same learners as an uninterrupted one, and nothing of them needs to be stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from evopress.search.moves.mutation import Indices


@dataclass(frozen=True, slots=True)
class Evidence:
    """A scored batch. All its scores are of one minibatch, so only differences between them say something.

    `parent` is the generation's parent, `scores[i]` belongs to `candidates[i]`. `kept` are those that go on, best
    first; in a generation's last stage, which is `final`, that is the next parent. Start candidates are generation 0.
    """

    generation: int
    stage: int
    tokens: int
    parent: Indices
    candidates: tuple[Indices, ...]
    scores: tuple[float, ...]
    kept: tuple[Indices, ...]
    final: bool


class Learner(ABC):
    """Something that learns from evidence. One object serves one search."""

    @abstractmethod
    def learn(self, evidence: Evidence) -> None:
        """Take in a scored batch."""
