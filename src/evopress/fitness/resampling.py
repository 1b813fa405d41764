"""How sure a score is: bootstrap confidence intervals and paired tests, from sums that scoring keeps for each sequence.

A score is a ratio: the sum of losses over the number of tokens. What varies is which text was at hand, so sequences are
drawn anew, with replacement, and the ratio is computed for each draw. Nothing is scored again. Sequences are taken to
be independent; windows of one document are not quite, so for few long documents the intervals are somewhat narrow.
Cost: draws x sequences random numbers, a fraction of a second for a thousand sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from evopress.fitness.divergence import Measure, Perplexity
from evopress.fitness.evaluator import Scores

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
DRAWS = 4000
"""Resamples: the ends of an interval move by a few percent of its width with another seed."""

_AT_ONCE = 1 << 22  # sequences that are drawn together
_NORMAL = NormalDist()

Interval = tuple[float, float] | None
"""Lower and upper end; None where losses are not finite or there is one sequence only."""


@dataclass(frozen=True)
class Paired:
    """`a` against `b` on the same sequences: the difference of their means, its interval, and how likely it is luck."""

    difference: float
    interval: Interval
    p: float


def intervals(sums: Floats, counts: Floats, *, level: float = LEVEL, seed: int = 0) -> list[Interval]:
    """A confidence interval for each row's mean loss: `sums` and `counts` are (rows, sequences).

    The bias-corrected and accelerated bootstrap of Efron (1987; Efron and Tibshirani 1993, eq. 14.9-14.15), on the
    quantiles that Hesterberg (2015, section 5.3) widens for few sequences. All rows share their draws.

    >>> [(low, high)] = intervals(np.array([[9.0, 11.0, 10.0, 12.0]]), np.full((1, 4), 10.0))
    >>> low < 1.05 < high
    True
    """
    rows, sequences = sums.shape
    usable = [row for row in range(rows) if sequences > 1 and np.isfinite(sums[row]).all()]
    found: list[Interval] = [None] * rows
    if usable:
        for row, drawn in zip(usable, _resampled(sums[usable], counts[usable], seed), strict=True):
            found[row] = _bca(sums[row], counts[row], drawn, level)
    return found


def paired(a: Floats, b: Floats, counts: Floats) -> Paired:
    """Compare two profiles by their losses, `a` and `b`, on the same sequences of `counts` tokens.

    `p` is that of the two-sided randomisation test (Fisher 1935): were both profiles equally good, the sign of each
    sequence's difference would be a coin's. All signs are tried where they are few, else random ones, and the observed
    ones count among them (Phipson and Smyth 2010), so that p is never 0. Losses that are not finite give p = 1.

    >>> paired(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]), np.ones(3)).p
    0.25
    """
    with np.errstate(invalid="ignore"):
        differences = a - b
    mean = float(differences.sum() / counts.sum())
    if not np.isfinite(differences).all():
        return Paired(mean, None, 1.0)
    [interval] = intervals(differences[None], counts[None])
    reached = abs(differences.sum()) * (1 - 1e-12)  # sums of one set in another order
    reaching = total = 0
    for signs in _signs(len(differences)):
        reaching += int((np.abs(signs @ differences) >= reached).sum())
        total += len(signs)
    exact = total == 1 << len(differences)
    return Paired(mean, interval, reaching / total if exact else (reaching + 1) / (total + 1))


def uncertainty(names: Sequence[str], scores: Scores, of: str = "searched") -> dict[str, object]:
    """What evaluation.json says of the scores of `names` (KL, then perplexity), and of `of` against all others.

    `intervals` has a pair of limits for each name and measure. In `against`, a KL is compared by the difference of the
    means, a perplexity by their ratio, both with limits; below 0, or below 1, `of` is better. A limit that is not
    finite is None.
    """
    sums, counts = scores.sums.numpy(), scores.counts.numpy()
    measures = {"kl": 0, "perplexity": 1}
    limits = {key: intervals(sums[:, at], np.tile(counts[at], (len(names), 1))) for key, at in measures.items()}
    found: dict[str, object] = {
        "level": LEVEL,
        "sequences": sums.shape[-1],
        "intervals": {
            name: {key: _scored(scores.measures[at], limits[key][row]) for key, at in measures.items()}
            for row, name in enumerate(names)
        },
    }
    if of in names:
        own = sums[list(names).index(of)]
        found["against"] = {
            name: {
                key: _comparison(scores.measures[at], paired(own[at], sums[row, at], counts[at]))
                for key, at in measures.items()
            }
            for row, name in enumerate(names)
            if name != of
        }
    return found


def _comparison(measure: Measure, found: Paired) -> dict[str, object]:
    """A difference of means, or for a perplexity the ratio that it is in the end."""
    key = "ratio" if isinstance(measure, Perplexity) else "difference"
    value = measure.score(found.difference)
    return {
        key: value if math.isfinite(value) else None,
        "interval": _scored(measure, found.interval),
        "p": found.p,
    }


def _scored(measure: Measure, interval: Interval) -> list[float] | None:
    """The limits as scores; they may be mapped one by one since a score grows with the mean loss."""
    ends = None if interval is None else [measure.score(end) for end in interval]
    return ends if ends and all(map(math.isfinite, ends)) else None


def _resampled(sums: Floats, counts: Floats, seed: int) -> Floats:
    """Each row's mean loss on each draw, (rows, DRAWS)."""
    sequences = sums.shape[1]
    rng = np.random.default_rng(seed)
    parts = []
    for size in _sizes(DRAWS, sequences):
        chosen = rng.integers(0, sequences, size=(size, sequences)) + np.arange(size)[:, None] * sequences
        times = np.bincount(chosen.ravel(), minlength=size * sequences).reshape(size, sequences).T.astype(np.float64)
        parts.append((sums @ times) / (counts @ times))
    return np.concatenate(parts, axis=1)


def _bca(sums: Floats, counts: Floats, drawn: Floats, level: float) -> tuple[float, float]:
    """The interval of one row from its estimates on the draws."""
    mean = sums.sum() / counts.sum()
    even = 1e-9 * np.ptp(drawn)  # what differs by rounding alone is a tie
    below = float((drawn < mean - even).mean() + (abs(drawn - mean) <= even).mean() / 2)
    if not 0 < below < 1 or even == 0:
        return float(drawn.min()), float(drawn.max())
    bias = _NORMAL.inv_cdf(below)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)  # the jackknife
    apart = left_out.mean() - left_out
    apart = apart / (np.abs(apart).max() or 1.0)  # so that no power of it is too small for a float
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5)) if apart.any() else 0.0
    reach = _reach(level, len(sums))
    ends = []
    for z in (-reach, reach):
        shifted = bias + z
        at = _NORMAL.cdf(bias + shifted / max(1e-3, 1 - acceleration * shifted))
        ends.append(float(np.quantile(drawn, at)))
    return ends[0], ends[1]


def _reach(level: float, sequences: int) -> float:
    """sqrt(n / (n - 1)) times the quantile of Student's t, by its expansion (Abramowitz and Stegun 26.7.5)."""
    z, freedom = _NORMAL.inv_cdf((1 + level) / 2), sequences - 1
    student = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return math.sqrt(sequences / freedom) * student


def _signs(sequences: int) -> Iterator[Floats]:
    """Rows of +-1: all of them where they are fewer than DRAWS, else DRAWS at random."""
    if 1 << sequences <= DRAWS:
        codes = np.arange(1 << sequences)[:, None]
        yield (((codes >> np.arange(sequences)) & 1) * 2 - 1).astype(np.float64)
        return
    rng = np.random.default_rng(0)
    for size in _sizes(DRAWS, sequences):
        yield (rng.integers(0, 2, size=(size, sequences)) * 2 - 1).astype(np.float64)


def _sizes(draws: int, sequences: int) -> Iterator[int]:
    """How many draws to take at once, so that memory stays bounded."""
    step = max(1, _AT_ONCE // sequences)
    yield from (min(step, draws - start) for start in range(0, draws, step))
