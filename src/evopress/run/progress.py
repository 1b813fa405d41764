"""What a search leaves beside its journal for those who watch it: `progress.jsonl`, when and what was chosen.

The journal decides how a search goes on, so it holds no times. This file decides nothing: a run that has lost it goes
on all the same. There is one line for each line of the journal, and the best profile is written as what changed:

    {"batch":3,"seconds":41.2,"tokens":90112,"accepted":true,"score":0.71,"cost":316,"best":{"model.layers.0...":"4"}}

`seconds` of searching are counted over interruptions and are null where a batch was replayed and never timed.
`accepted` is null in the middle of a generation. The first line's `best` holds every unit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evopress.core.space import SearchSpace
from evopress.run.observer import Observer
from evopress.search.types import BatchResult


class Progress(Observer):
    """Writes the line of every batch that has none; `on` hears the same.

    `seconds` is what the search took before, as far as its timing file knows; `before` is that, or what the last line
    here says: a killed search has written no time but here.
    """

    def __init__(
        self, path: Path, on: Observer, *, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._on, self._clock = path, on, clock
        kept = list(read_progress(path))
        self._written, self._batches, self._best = len(kept), 0, dict[str, str]()
        self.before: float = max([seconds, *(line["seconds"] or 0.0 for line in kept[-1:])])
        self._started = clock() - self.before
        if kept:  # a kill may have left half a line
            path.write_text("".join(_line(line) for line in kept), encoding="utf-8")
        else:
            path.unlink(missing_ok=True)

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        """One line, and one call of the other observer."""
        self._batches += 1
        best = dict(result.best.items())
        changed = {name: level for name, level in best.items() if self._best.get(name) != level}
        self._best = best
        if self._batches > self._written:
            line = {
                "batch": self._batches,
                "seconds": None if result.replayed else round(self._clock() - self._started, 2),
                "tokens": tokens,
                "accepted": result.accepted,
                "score": result.score if math.isfinite(result.score) else None,
                "cost": space.cost(result.best),
                "best": changed,
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(line))
        self._on.batch(result, space, tokens)


def read_progress(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a progress file, up to the first that is damaged or still being written; none without it."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not isinstance(line, dict) or line.get("batch") != number:
            return
        yield line


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"
