"""What a run tells whoever watches it. The null observer below is the default; the command line draws with its own.

Calls come from the thread that works, at most a few hundred a second, and must not raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evopress.core.space import SearchSpace
    from evopress.search.types import BatchResult


class Observer:
    """Hears what happens and does nothing with it. Subclass and override what you need.

    >>> class Printer(Observer):
    ...     def note(self, text: str) -> None:
    ...         print(text)
    >>> Printer().note("model loaded")
    model loaded
    """

    def note(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        """A long phase has come to `done` of `total`; `done == total` ends it."""

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        """A search batch was scored; `tokens` have been evaluated so far, in all batches."""

    def evaluated(self, result: Mapping[str, Any]) -> None:
        """The profiles were scored on held-out text; `result` is what evaluation.json holds."""


class Observers(Observer):
    """Several observers as one; each is told in turn."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def note(self, text: str) -> None:
        for observer in self._observers:
            observer.note(text)

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        for observer in self._observers:
            observer.progress(phase, done, total, detail)

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        for observer in self._observers:
            observer.batch(result, space, tokens)

    def evaluated(self, result: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.evaluated(result)
