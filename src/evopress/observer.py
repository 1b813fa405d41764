"""What a run tells whoever watches it. The null observer below is the default; the command line draws with its own.

Calls come from the thread that works, at most a few hundred a second, and must not raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evopress.search.types import BatchResult
    from evopress.space import SearchSpace


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
