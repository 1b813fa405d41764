"""A race in place of the last stage: parent and children run over the same small parts of text until it is clear.

One look at all tokens of the last stage answers "which score is lowest", which noise often decides. Here the tokens
come in parts. All who still run are scored on the same part, so the difference between a child and its parent is free
of what the part itself costs, and the spread of these differences over the parts says how far to trust their mean. A
clear loser stops early, a clear winner ends the race, and at the end a child replaces its parent only where the
differences lean its way by more than their own noise usually does: the rules are those that gained most for the same
tokens (docs/log.md), and well below significance. A race takes at most the tokens of the stage, usually fewer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from evopress.core.profile import Profile
from evopress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Race:
    """The rules: the stage's tokens in `parts`; nobody is judged before `least` of them.

    A child that is `clear` standard errors worse than its parent or than another child stops; one that is alone and
    that much better wins at once. After the last part the best child must be `evidence` standard errors better.

    With `reuse` a parent that stays keeps its text: later children run against its known scores on it, and no profile
    is scored twice on one part. A new parent gets fresh text, so the luck that a child won by does not help it to stay.
    It needs an evaluator with `evopress.search.types.Reread`.
    """

    parts: int = 8
    least: int = 3
    clear: float = 1.0
    evidence: float = 0.5
    reuse: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.parts:
            raise ConfigError(f"a race of {self.parts} parts judges after {self.least}; it must be 2 to {self.parts}")
        if min(self.clear, self.evidence) < 0:
            raise ConfigError(f"clear is {self.clear} and evidence {self.evidence}; neither may be negative")

    def tokens(self, stage: int) -> int:
        """Tokens of one part of a stage."""
        return max(1, stage // self.parts)


STANDARD = Race(reuse=True)
"""The race of a run, and the one by which a report reads its journal."""


@dataclass
class Memory:
    """What is known on the parent's text, which begins with part `first`: step -> profile -> score."""

    first: int = 0
    known: dict[int, dict[Profile, float]] = field(default_factory=dict)

    def on(self, step: int) -> dict[Profile, float]:
        """The scores on that part, to read and to add to."""
        return self.known.setdefault(step, {})

    def move_on(self, parts: int) -> None:
        """There is a new parent: its text is what comes after these parts."""
        self.first += parts
        self.known.clear()


@dataclass
class Track:
    """A race between the parent, runner 0, and its children: `running` are those still in it, the parent first.

    >>> track = Track(Race(parts=4, least=2), children=2)
    >>> track.add([1.0, 0.9, 3.0])
    >>> track.add([1.2, 1.0, 3.1])
    >>> track.running, track.over, track.winner
    ([0, 1], True, 1)
    """

    race: Race
    children: int
    scores: dict[int, list[float]] = field(init=False)
    running: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.scores = {runner: [] for runner in range(self.children + 1)}
        self.running = list(self.scores)

    def add(self, scores: Sequence[float]) -> None:
        """The scores of one part, in the order of `running`; who is clearly beaten, or not finite, stops."""
        for runner, score in zip(self.running, scores, strict=True):
            self.scores[runner].append(score)
        finite = [runner for runner in self.running if math.isfinite(self.scores[runner][-1])]
        self.running = [0, *(runner for runner in finite if runner != 0)]
        if len(self.scores[0]) >= self.race.least and math.isfinite(sum(self.scores[0])):
            self.running = [0, *(runner for runner in self.running[1:] if not self._beaten(runner))]

    @property
    def over(self) -> bool:
        """Whether another part would change nothing: no child runs, one has clearly won, or all parts are run."""
        if len(self.running) == 1 or len(self.scores[0]) == self.race.parts:
            return True
        return len(self.running) == 2 and self._ahead(self.running[1], 0, self.race.clear)

    @property
    def winner(self) -> int:
        """The best child if there is evidence for it, else the parent."""
        if len(self.running) == 1:
            return 0
        best = min(self.running[1:], key=self.mean)
        return best if self._ahead(best, 0, self.race.evidence) else 0

    def mean(self, runner: int) -> float:
        """The mean score of a runner over its parts."""
        return statistics.fmean(self.scores[runner])

    def _beaten(self, runner: int) -> bool:
        return any(self._ahead(other, runner, self.race.clear) for other in self.running if other != runner)

    def _ahead(self, one: int, other: int, errors: float) -> bool:
        """Whether the mean of `one` is lower by more than that many standard errors of the paired difference."""
        first, second = self.scores[one], self.scores[other]
        if not math.isfinite(sum(second)):
            return math.isfinite(sum(first))
        if not math.isfinite(sum(first)) or len(first) < self.race.least:
            return False
        gaps = [b - a for a, b in zip(first, second, strict=True)]
        needed = student(errors, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        return statistics.fmean(gaps) > needed


def student(errors: float, freedom: int) -> float:
    """How many estimated standard errors are as rare as `errors` true ones: few parts tell their own spread badly.

    The quantile of Student's t with `freedom` degrees of freedom, by the first terms of its expansion (Abramowitz and
    Stegun, 26.7.5).

    >>> round(student(2.0, 2), 1), round(student(2.0, 7), 1), round(student(2.0, 1000), 1)
    (4.0, 2.4, 2.0)
    """
    first = (errors**3 + errors) / 4
    second = (5 * errors**5 + 16 * errors**3 + 3 * errors) / 96
    return errors + first / freedom + second / freedom**2
