"""What trackers share: which numbers of a search are logged, under which names, at which step.

A resumed search logs what it replays, too, so every tracked process has the whole curve.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

from evopress.core.space import SearchSpace
from evopress.errors import MissingExtra
from evopress.run.observer import Observer
from evopress.search.types import BatchResult


class Tracker(Observer):
    """An observer that logs named numbers; the step is the generation. It is opened by the first number."""

    _step = 0
    _accepted = 0

    @abstractmethod
    def open(self) -> Any:
        """Begin: what `opened` is from then on."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left of what was opened."""

    @cached_property
    def opened(self) -> Any:
        """What the tracker's package writes with."""
        with redirect_stdout(sys.stderr):  # standard output is for results
            return self.open()

    def close(self) -> None:
        """Finish, if anything was logged."""
        if "opened" in vars(self):
            with redirect_stdout(sys.stderr):
                self.finish()

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log some numbers at a step."""

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        """One step for each generation."""
        if result.accepted is None:
            return
        self._step = result.batch.generation
        self._accepted += bool(result.accepted and self._step)
        values = {
            "search/fitness": result.score,
            "search/accepted": float(result.accepted),
            "search/accepted in all": float(self._accepted),
            "search/tokens": float(tokens),
            "search/share of the budget": space.cost(result.best) / space.budget if space.budget else 0.0,
        }
        self.log({name: value for name, value in values.items() if math.isfinite(value)}, self._step)

    def evaluated(self, result: Mapping[str, Any]) -> None:
        """The scores on held-out text, at the last generation."""
        rows = result["profiles"].items()
        self.log(
            {f"heldout/{name}/{key}": float(value) for name, row in rows for key, value in _numbers(row)}, self._step
        )


def _numbers(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(key, value) for key, value in row.items() if isinstance(value, (int, float))]


def require(module: str, extra: str) -> ModuleType:
    """Import a tracker's package; MissingExtra names the extra that brings it."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(
            f"tracking with {extra} needs its package, which is not installed: pip install 'evopress[{extra}]'"
        ) from None
