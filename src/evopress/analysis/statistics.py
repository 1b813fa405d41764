"""Correlations of scores, in numpy, because scipy would be a dependency for two formulas. They cost a sort.

A constant sequence orders nothing, so its correlation with anything is 0, and no result here is ever NaN. Scores that
are not finite have no place in a mean: `finite` says which positions are to be used, and analyses count the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evopress.errors import ConfigError

Floats = npt.NDArray[np.float64]

FEWEST = 3
"""A correlation of fewer pairs says nothing."""


def ranks(values: Sequence[float] | Floats) -> Floats:
    """Ranks from 1, lowest first; equal values share the mean of their ranks.

    >>> ranks([0.5, 2.0, 0.5]).tolist()
    [1.5, 3.0, 1.5]
    """
    _, position, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    shared: Floats = np.cumsum(counts) - (counts - 1) / 2
    return shared[position]


def pearson(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """Pearson's correlation of two finite sequences of one length; 0 when one of them is constant."""
    x, y = _centred(a), _centred(b)
    norm = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return max(-1.0, min(1.0, float(x @ y) / norm)) if norm else 0.0


def spearman(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties sharing theirs.

    >>> spearman([1, 2, 3], [10, 100, 1000])
    1.0
    """
    return pearson(ranks(a), ranks(b))


def interval(correlation: float, count: int) -> tuple[float, float]:
    """About 95 % confidence limits of a rank correlation of `count` pairs.

    Fisher's z with the variance (1 + r^2 / 2) / (count - 3) of Bonett and Wright (2000).
    """
    if count <= FEWEST:
        return -1.0, 1.0
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, correlation)))
    reach = 1.96 * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    return math.tanh(z - reach), math.tanh(z + reach)


def finite(*columns: Sequence[float] | Floats) -> list[int]:
    """The positions at which all columns are finite."""
    rows = zip(*columns, strict=True)
    return [i for i, row in enumerate(rows) if all(map(math.isfinite, row))]


def require_enough(kept: Sequence[int], of: int) -> None:
    """ConfigError when fewer than three of so many profiles are left to correlate."""
    if len(kept) < FEWEST:
        raise ConfigError(f"{len(kept)} of {of} profiles have finite scores; a correlation needs {FEWEST} or more")


def _centred(values: Sequence[float] | Floats) -> Floats:
    """Without their mean, and at most 1 in size, so that squares of huge scores stay finite; zeros for a constant."""
    array = np.asarray(values, dtype=np.float64)
    if array.max() == array.min():
        return np.zeros_like(array)
    array = array / np.abs(array).max()
    centred: Floats = array - array.mean()
    return centred
