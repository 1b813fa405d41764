"""Ends of a search before its generations are over: enough tokens, enough time, or nothing gained for a while.

A search ends between two generations, so its best profile has been through every stage. The next generation is taken
to cost what the last one did; one that would go over a limit is not begun. Limits of tokens and patience depend on the
journal alone and end a resumed search where they would have ended the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from evopress.search.types import Batch, BatchResult


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so many tokens, seconds, and generations in a row that keep their parent; None: no limit."""

    tokens: int | None = None
    seconds: float | None = None
    patience: int | None = None


class Stopper:
    """Counts what a search takes. `tokens` and `seconds` are what was spent before; `reason` says what ended it.

    >>> from evopress.search.types import Batch
    >>> stopper = Stopper(Limits(tokens=100), tokens=100)
    >>> stopper.ends(Batch(generation=1, stage=0, tokens=10, profiles=()))
    True
    >>> stopper.reason
    'the limit of 100 tokens was reached after 100 tokens'
    """

    def __init__(
        self, limits: Limits, *, tokens: int = 0, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self.tokens, self.reason = limits, tokens, ""
        self._clock, self._started = clock, clock() - seconds
        self._begun = (tokens, self._started)  # tokens and time when the running generation began
        self._last = (0, 0.0)  # tokens and seconds of the generation before
        self._idle = 0

    def ends(self, batch: Batch) -> bool:
        """Whether the search should end instead of scoring `batch`; only ever before a new generation."""
        if batch.stage == 0 and batch.generation > 0:
            self.reason = self._why(batch.generation - 1)
        return bool(self.reason)

    def saw(self, result: BatchResult) -> None:
        """Count a batch that was scored or replayed."""
        self.tokens += len(result.batch.profiles) * result.batch.tokens
        if result.accepted is None:
            return
        now = self._clock()
        self._last = (self.tokens - self._begun[0], 0.0 if result.replayed else now - self._begun[1])
        self._begun = (self.tokens, now)
        if result.batch.generation > 0:
            self._idle = 0 if result.accepted else self._idle + 1

    def _why(self, generations: int) -> str:
        limits, seconds = self.limits, self._clock() - self._started
        if limits.tokens is not None and self.tokens + max(1, self._last[0]) > limits.tokens:
            return f"the limit of {limits.tokens} tokens was reached after {self.tokens} tokens"
        if limits.seconds is not None and seconds + self._last[1] >= limits.seconds:
            return f"the limit of {limits.seconds:g} s was reached after {generations} generations and {seconds:.0f} s"
        if limits.patience is not None and self._idle >= limits.patience:
            return f"{self._idle} generations in a row kept their parent"
        return ""
