"""An additive model of how the score changes with the profile, so that most offspring need no forward pass.

    score(child) - score(parent)  ~  sum over the steps between them of effect(unit, step)

A step is one level up; a unit with n levels has n - 1 of them, so what is learnt of one step says nothing of the next.
Each effect has a mean and a variance. The prior mean is a prediction (measured sensitivities) or 0; the prior standard
deviation is a part of the prediction and of what its cost lets expect. The score of a candidate on t tokens is its sum
of effects + an offset that it shares with its whole batch + noise, whose variance is (noise_tokens / t) times the
prior variance of the steps that it took: on the same text, candidates that differ more differ more by chance.

A batch is one exact Gaussian update of the effects that it touches (a system of at most one equation for each
candidate, 32 or so). A score that lies far outside of what its steps let expect is believed: the variance of those
steps is widened first, so that the update moves their effects and not the offset, by which it would move all others'.
After the update correlations between effects are forgotten: memory and time do not grow with the square of the number
of units. That a bundle is dropped or kept is one step, whose effect is what that does to the score. What is learnt is
forgotten slowly as the parent moves, because effects are those around an old parent. Costs at 20,000 units: 0.15 ms for
a prediction, 5 ms for a batch of 32 with few switches, 65 ms where each of them moves whole roles.

Additive models miss interactions. They may choose what to score, never what to accept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evopress.core.bundles import Bundles
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search.learner import Evidence, Learner
from evopress.search.moves.mutation import Indices

Array = npt.NDArray[np.float64]
Steps = tuple[npt.NDArray[np.intp], Array]
"""Positions of steps in the flat tables, and the direction of each: 1 up, -1 down."""

SURPRISE = 3.0
"""Standard deviations that a score may be off before the variance of its steps is widened to make it that likely."""


class Surrogate(Learner):
    """Mean and variance of each step's effect on the score; lower scores are better.

    `effects` (units x levels) predicts how the score changes when a unit alone has a level, up to a constant for each
    unit; columns beyond a unit's levels are not read, what is not finite counts as the worst that is. Without it every
    effect is predicted to be 0. The prior standard deviation of a step is `trust` of its predicted effect plus `floor`
    of what a step of its cost has at the median. On `noise_tokens` tokens
    the noise in an effect is as large as that standard deviation. Each new parent leaves `memory` of what was learnt.

    >>> from evopress.core.profile import Level, Unit
    >>> from evopress.core.space import make_space
    >>> units = [Unit(name, 0, name, 1, (Level("2", 2), Level("3", 3))) for name in "ab"]
    >>> space = make_space(units, average=2.5, exchange="any")
    >>> model = Surrogate(space, np.array([[0.0, -1.0], [0.0, -3.0]]), trust=0.5, floor=0.0)
    >>> mean, deviation = model.predict((1, 0), (0, 1))
    >>> round(mean, 3), round(deviation, 3)
    (-2.0, 1.581)
    """

    def __init__(
        self,
        space: SearchSpace,
        effects: npt.ArrayLike | None = None,
        *,
        trust: float = 1.0,
        floor: float = 0.1,
        noise_tokens: float = 512.0,
        memory: float = 0.98,
    ) -> None:
        for name, value in (("trust", trust), ("floor", floor)):
            if not value >= 0:
                raise ConfigError(f"{name} is {value}; it must be 0 or more")
        if not noise_tokens > 0:
            raise ConfigError(f"noise_tokens is {noise_tokens}; it must be more than 0")
        if not 0 <= memory <= 1:
            raise ConfigError(f"memory is {memory}; it must be between 0 and 1")
        self._width = max(1, max(map(len, space.steps)))
        self._noise_tokens, self._memory = noise_tokens, memory
        costs = _padded(space.steps, self._width)
        predicted = np.zeros_like(costs) if effects is None else _predicted_steps(space, effects, self._width)
        self._shared = _shared_steps(space, self._width)
        for table in (costs, predicted) if space.bundles else ():
            _add_up(table, space.bundles)
        typical = _median(np.abs(predicted[costs > 0]) / costs[costs > 0]) or 1.0
        deviation = trust * np.abs(predicted) + floor * typical * costs
        self._prior_mean, self._prior_variance = predicted.ravel(), (deviation**2).ravel()
        self.mean, self.variance = self._prior_mean.copy(), self._prior_variance.copy()

    def predict(self, parent: Indices, child: Indices) -> tuple[float, float]:
        """How much the child's score is above the parent's: expectation and standard deviation."""
        means, deviations = self.predict_all(parent, (child,))
        return float(means[0]), float(deviations[0])

    def predict_all(self, parent: Indices, children: Sequence[Indices]) -> tuple[Array, Array]:
        """`predict` for several children of one parent: means and standard deviations."""
        origin = _array(parent)
        means, variances = np.zeros(len(children)), np.zeros(len(children))
        for row, child in enumerate(children):
            steps, signs = self._steps(origin, _array(child))
            means[row], variances[row] = self.mean[steps] @ signs, self.variance[steps].sum()
        return means, np.sqrt(variances)

    def learn(self, evidence: Evidence) -> None:
        """Update the effects that the candidates of a batch differ in; what is not finite is left out.

        Start candidates teach nothing: they differ in too many steps for a sum of effects.
        """
        if evidence.generation == 0:
            return
        usable = [i for i, score in enumerate(evidence.scores) if math.isfinite(score)]
        if len(usable) > 1:
            origin = _array(evidence.parent)
            rows = [self._steps(origin, _array(evidence.candidates[i])) for i in usable]
            self._update(rows, np.array([evidence.scores[i] for i in usable]), evidence.tokens)
        if evidence.final and evidence.kept[0] != evidence.parent:
            self._forget()

    def _update(self, rows: Sequence[Steps], scores: Array, tokens: int) -> None:
        """One Gaussian update: `scores` = design @ effects + common offset + noise."""
        place = np.zeros(len(self.mean), dtype=np.intp)
        for steps, _ in rows:
            place[steps] = 1
        touched = np.flatnonzero(place)
        place[touched] = np.arange(len(touched))
        design = np.zeros((len(rows), len(touched)))
        for row, (steps, signs) in enumerate(rows):
            design[row, place[steps]] = signs
        taken = np.abs(design)  # 1 where a candidate has taken a step
        noise = self._noise_tokens / tokens * (taken @ self._prior_variance[touched])
        expected = taken @ self.variance[touched] + noise
        if not expected.any():
            return
        surprise = scores - scores.mean() - design @ self.mean[touched]
        surprise -= np.median(surprise)
        variance = self.variance[touched] * _widening(surprise, expected, taken)
        gain = design * variance  # rows x touched: the covariance of observations with effects
        scale = float(expected.mean())
        unexplained = np.diag(noise + 1e-8 * scale) + 1e4 * scale  # the offset is unknown: a wide prior on it
        weights = np.linalg.inv(gain @ design.T + unexplained)  # as many rows as candidates
        self.mean[touched] += (weights @ surprise) @ gain
        self.variance[touched] = np.maximum(variance - ((weights @ gain) * gain).sum(axis=0), 1e-12 * variance)

    def _forget(self) -> None:
        """The parent has moved: means and variances return to the prior by a small part of the way."""
        kept = self._memory
        self.mean = self._prior_mean + kept * (self.mean - self._prior_mean)
        self.variance = self._prior_variance + kept**2 * (self.variance - self._prior_variance)

    def _steps(self, origin: npt.NDArray[np.integer], child: npt.NDArray[np.integer]) -> Steps:
        """The steps that lead from one profile to another."""
        units = np.flatnonzero(origin != child)
        before, after = origin[units].astype(np.intp), child[units].astype(np.intp)
        first = units * self._width + np.minimum(before, after)
        return self._distinct(*self._expanded(first, np.abs(after - before), np.where(after > before, 1.0, -1.0)))

    def _expanded(self, first: npt.NDArray[np.intp], counts: npt.NDArray[np.intp], signs: Array) -> Steps:
        """Each step of moves by several levels."""
        if len(counts) == 0 or counts.max() == 1:
            return first, signs
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + within, np.repeat(signs, counts)

    def _distinct(self, steps: npt.NDArray[np.intp], signs: Array) -> Steps:
        """The steps, that of a bundle once."""
        if self._shared is None:
            return steps, signs
        found, first = np.unique(self._shared[steps], return_index=True)
        return found, signs[first]


def _shared_steps(space: SearchSpace, width: int) -> npt.NDArray[np.intp] | None:
    """The place of each step: the first steps of a bundle's units are one step. None where there are no bundles."""
    if not space.bundles:
        return None
    places = np.arange(len(space.units) * width)
    for bundle in space.bundles:
        places[[unit * width for unit in bundle]] = bundle[0] * width
    return places


def _add_up(table: Array, bundles: Bundles) -> None:
    """The first steps of a bundle's units added up at its first unit."""
    for bundle in bundles:
        table[bundle[0], 0] = table[list(bundle), 0].sum()
        table[list(bundle[1:]), 0] = 0.0


def effect_table(
    space: SearchSpace,
    slope: Mapping[str, Mapping[str, float]],
    curvature: Mapping[str, Mapping[str, float]],
    gamma: float = 1.0,
) -> Array:
    """slope + gamma * curvature of every unit and level as a surrogate's `effects` (units x levels).

    ConfigError when a number is missing. See `evopress.search.starts.sensitivity` for what gamma does.
    """
    table = np.zeros((len(space.units), max(len(unit.levels) for unit in space.units)))
    for row, unit in enumerate(space.units):
        for column, level in enumerate(unit.levels):
            try:
                own = (slope[name][level.name] + gamma * curvature[name][level.name] for name in unit.named)
                table[row, column] = sum(own)
            except KeyError as missing:
                raise ConfigError(f"unit {unit.name}: no sensitivity is known for {missing}; give all levels") from None
    return table


def _predicted_steps(space: SearchSpace, effects: npt.ArrayLike, width: int) -> Array:
    table = np.asarray(effects, dtype=np.float64)
    least = (len(space.units), max(len(unit.levels) for unit in space.units))
    if table.ndim != 2 or table.shape[0] != least[0] or table.shape[1] < least[1]:
        raise ConfigError(f"effects have the shape {table.shape}; {least} is needed: units x levels")
    finite = table[np.isfinite(table)]
    table = np.where(np.isfinite(table), table, finite.max() if len(finite) else 0.0)
    counts = np.array([len(steps) for steps in space.steps])
    steps = np.diff(table[:, : width + 1], axis=1) if table.shape[1] > 1 else np.zeros((len(table), width))
    return np.where(np.arange(width) < counts[:, None], steps, 0.0)


def _padded(steps: Sequence[Sequence[int]], width: int) -> Array:
    """units x width, 0 where a unit has fewer steps."""
    table = np.zeros((len(steps), width))
    for row, own in enumerate(steps):
        table[row, : len(own)] = own
    return table


def _array(indices: Indices) -> npt.NDArray[np.integer]:
    """Level indices as an array; by way of bytes, which is several times faster, where levels fit into them."""
    try:
        return np.frombuffer(bytes(indices), dtype=np.uint8)
    except ValueError:
        return np.array(indices, dtype=np.intp)


def _widening(surprise: Array, expected: Array, taken: Array) -> Array:
    """For each step the factor on its variance: 1, or what the most surprising candidate with it asks for."""
    factors = np.ones_like(surprise)
    np.divide(surprise**2, SURPRISE**2 * expected, out=factors, where=expected > 0)
    widening: Array = (taken * np.maximum(factors, 1.0)[:, None]).max(axis=0)
    return widening


def _median(values: Array) -> float:
    return float(np.median(values)) if values.size else 0.0
