"""How many tokens does a selection need? Rank correlation against tokens, and what each stage throws away.

Everything is resampled from scores that were computed once: those of every profile on every sequence, whole and cut to
64, 128, ... tokens. A minibatch is drawn as the search draws it: sequences at random, without replacement, whole ones
while they fit, then one that is cut to the longest measured length that fits. The full set is the truth; a minibatch is
a part of it, so agreement reaches 1 by construction when all tokens are drawn. Scores are means over counted tokens;
only their order matters, so perplexity is as good as its logarithm. After the scores, which cost less than twice the
full set for each profile, a thousand minibatches are a fraction of a second of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from evopress.analysis.statistics import Floats, finite, require_enough, spearman
from evopress.analysis.table import Table
from evopress.errors import ConfigError, ScheduleError
from evopress.search.stages import Stage, validate_schedule

SHORTEST = 64
"""Tokens of the smallest minibatch."""

Cut = tuple[int, int]
"""(sequence, how many of its first tokens)."""


@dataclass(frozen=True)
class PieceScores:
    """Scores of profiles on cuts of sequences, the shortest cut first, the whole sequence last.

    `sums` (profiles, cuts, sequences) are summed losses, `counts` (cuts, sequences) the tokens that count, `tokens`
    (cuts, sequences) the tokens read.
    """

    sums: Floats
    counts: Floats
    tokens: npt.NDArray[np.int64]

    @property
    def total(self) -> int:
        """Tokens of all whole sequences."""
        return int(self.tokens[-1].sum())

    def full(self) -> Floats:
        """(profiles,) scores on all whole sequences."""
        scores: Floats = self.sums[:, -1].sum(1) / self.counts[-1].sum()
        return scores

    def only(self, profiles: Sequence[int]) -> PieceScores:
        """The same for some of the profiles."""
        return PieceScores(self.sums[list(profiles)], self.counts, self.tokens)

    def minibatch(self, tokens: int, rng: Random) -> tuple[Floats, int]:
        """(profiles,) scores on one minibatch of at most `tokens` tokens, and how many it has."""
        sequences = self.tokens.shape[1]
        order = np.array(rng.sample(range(sequences), min(sequences, 1 + tokens // int(self.tokens[-1].min()))))
        used = np.cumsum(self.tokens[-1, order])
        whole = int(np.searchsorted(used, tokens, side="right"))
        drawn = int(used[whole - 1]) if whole else 0
        sums = self.sums[:, -1, order[:whole]].sum(1)
        counted = self.counts[-1, order[:whole]].sum()
        if whole < len(order) and (fitting := np.flatnonzero(self.tokens[:, order[whole]] <= tokens - drawn)).size:
            at = fitting[-1], order[whole]
            sums, counted, drawn = sums + self.sums[:, *at], counted + self.counts[at], drawn + int(self.tokens[at])
        return sums / counted, drawn


def cuts(lengths: Sequence[int], shortest: int = SHORTEST) -> list[Cut]:
    """What `piece_scores` wants scored of sequences of these lengths: their first 64, 128, ... tokens, and all.

    >>> cuts([200, 100])
    [(0, 64), (0, 128), (0, 200), (1, 64), (1, 100)]
    """
    if not lengths or shortest < 1:
        raise ConfigError(f"{len(lengths)} sequences cannot be cut to {shortest} tokens; give some, and 1 or more")
    pieces = []
    for sequence, length in enumerate(lengths):
        size = shortest
        while size < length:
            pieces.append((sequence, size))
            size *= 2
        pieces.append((sequence, length))
    return pieces


def piece_scores(sums: npt.ArrayLike, counts: npt.ArrayLike, pieces: Sequence[Cut]) -> PieceScores:
    """Order what an evaluator found on `cuts`: `sums` (profiles, pieces) and `counts` (pieces,) of one measure.

    Sequences with fewer cuts than others are filled up with the whole sequence.
    """
    own: dict[int, list[int]] = {}
    for i in sorted(range(len(pieces)), key=pieces.__getitem__):
        own.setdefault(pieces[i][0], []).append(i)
    rows = max(map(len, own.values()))
    at = np.array([found + found[-1:] * (rows - len(found)) for found in own.values()]).T
    lengths = np.array([length for _, length in pieces], dtype=np.int64)
    return PieceScores(np.asarray(sums, dtype=np.float64)[:, at], np.asarray(counts, dtype=np.float64)[at], lengths[at])


@dataclass(frozen=True, slots=True)
class Agreement:
    """How scores on `tokens` tokens (on average `drawn`) order the profiles, compared with the full set.

    `mean`, and `low` and `high`, the 5th and 95th percentile, are of the rank correlation over the minibatches; `best`
    is the share of minibatches on which the truly best profile was the best.
    """

    tokens: int
    drawn: float
    mean: float
    low: float
    high: float
    best: float


@dataclass(frozen=True, slots=True)
class StageLoss:
    """What a stage does to the truly best of the offspring.

    `discards` is the chance that it is there and is thrown away here, `kept` that it is there afterwards. `loss` is by
    how much the best profile left, on average, is worse than it, on the full set.
    """

    tokens: int
    survivors: int
    discards: float
    kept: float
    loss: float


@dataclass(frozen=True)
class Noise:
    """Results of `measure_noise`. `spread` is the standard deviation of the profiles' scores on the full set.

    A chance here has a standard error of at most 0.5 / sqrt(repeats). Profiles without a finite score are `left_out`.
    """

    profiles: int
    left_out: int
    offspring: int
    sequences: int
    tokens: int
    repeats: int
    spread: float
    agreements: tuple[Agreement, ...]
    stages: tuple[StageLoss, ...]


def measure_noise(
    scores: PieceScores,
    rng: Random,
    *,
    stages: Sequence[Stage] = (),
    offspring: int | None = None,
    tokens: Sequence[int] | None = None,
    repeats: int = 1000,
) -> Noise:
    """Agreement for each of `tokens` (default: 64, 128, ... and all), and the losses of a schedule's stages.

    The profiles should be what the schedule selects from: the offspring of one parent. Each of `repeats` trials takes
    `offspring` of them at random (default: all) through the stages, each with its own minibatch. The parent, which
    joins a search's last stage, is not part of it. ScheduleError when the stages need more profiles or tokens than
    there are or fewer tokens than the shortest cut, ConfigError when fewer than three profiles have finite scores.
    """
    kept = finite(scores.full())
    require_enough(kept, len(scores.sums))
    left_out, scores = len(scores.sums) - len(kept), scores.only(kept)
    count = len(kept) if offspring is None else offspring
    sizes = _sizes(scores) if tokens is None else tokens
    if repeats < 1:
        raise ScheduleError(f"repeats is {repeats}; it must be 1 or more")
    _check(scores, count, stages, sizes)
    return Noise(
        profiles=len(kept),
        left_out=left_out,
        offspring=count,
        sequences=scores.tokens.shape[1],
        tokens=scores.total,
        repeats=repeats,
        spread=float(scores.full().std()),
        agreements=tuple(_agreement(scores, size, rng, repeats) for size in sizes),
        stages=_stage_losses(scores, count, stages, rng, repeats) if stages else (),
    )


def agreement_table(found: Noise) -> Table:
    """A row for each number of tokens."""
    rows = tuple(
        (f"{at.tokens}", f"{at.mean:.3f}", f"{at.low:.2f} to {at.high:.2f}", f"{at.best:.0%}")
        for at in found.agreements
    )
    title = f"{found.profiles} profiles: scores on few tokens against all {found.tokens}"
    return Table(title, ("tokens", "rank correlation", "5 to 95 %", "finds the best"), rows)


def stage_table(found: Noise) -> Table:
    """A row for each stage."""
    rows = tuple(
        (f"{at.tokens}", f"{at.survivors}", f"{at.discards:.1%}", f"{at.kept:.1%}", f"{at.loss:.3g}")
        for at in found.stages
    )
    title = f"the best of {found.offspring} offspring in the stages (spread of scores {found.spread:.3g})"
    return Table(title, ("tokens", "survivors", "discarded here", "still there", "mean loss"), rows)


def _sizes(scores: PieceScores) -> list[int]:
    """The shortest cut, doubled until all tokens are reached, and all tokens."""
    sizes = [_smallest(scores)]
    while sizes[-1] * 2 < scores.total:
        sizes.append(sizes[-1] * 2)
    return [size for size in sizes if size < scores.total] + [scores.total]


def _smallest(scores: PieceScores) -> int:
    """What every minibatch must have, so that it holds something whichever sequence comes first."""
    return int(scores.tokens[0].max())


def _check(scores: PieceScores, offspring: int, stages: Sequence[Stage], sizes: Sequence[int]) -> None:
    if stages:
        asked = [stage.tokens for stage in stages]
        validate_schedule(offspring, [stage.survivors for stage in stages], asked, scores.total)
        sizes = [*sizes, *asked]
    if offspring > len(scores.sums):
        raise ScheduleError(f"{offspring} offspring are more than the {len(scores.sums)} profiles with finite scores")
    if sizes and min(sizes) < _smallest(scores):
        raise ScheduleError(
            f"{min(sizes)} tokens are fewer than the shortest cut of {_smallest(scores)}; score shorter cuts"
        )


def _agreement(scores: PieceScores, tokens: int, rng: Random, repeats: int) -> Agreement:
    full = scores.full()
    found, drawn, best = [], 0, 0
    for _ in range(repeats):
        own, size = scores.minibatch(tokens, rng)
        found.append(spearman(own, full))
        best += int(own.argmin() == full.argmin())
        drawn += size
    low, high = np.quantile(found, [0.05, 0.95])
    return Agreement(tokens, drawn / repeats, float(np.mean(found)), float(low), float(high), best / repeats)


def _stage_losses(
    scores: PieceScores, offspring: int, stages: Sequence[Stage], rng: Random, repeats: int
) -> tuple[StageLoss, ...]:
    full = scores.full()
    kept, loss = np.zeros(len(stages)), np.zeros(len(stages))
    for _ in range(repeats):
        alive = np.array(rng.sample(range(len(full)), offspring))
        best = alive[full[alive].argmin()]
        for number, stage in enumerate(stages):
            own, _ = scores.minibatch(stage.tokens, rng)
            alive = alive[np.argsort(own[alive], kind="stable")[: stage.survivors]]
            kept[number] += best in alive
            loss[number] += full[alive].min() - full[best]
    kept, loss = kept / repeats, loss / repeats
    before = [1.0, *kept[:-1]]
    return tuple(
        StageLoss(stage.tokens, stage.survivors, float(before[i] - kept[i]), float(kept[i]), float(loss[i]))
        for i, stage in enumerate(stages)
    )
