"""Baseline: OWL, one sparsity for each block from its share of outliers (Yin et al. 2024, arXiv 2310.05175).

An outlier is an entry of |W| * sqrt(diag H) above M times their mean, over all linears of a block; blocks with many are
pruned less. The method has two settings, lambda and M, that its authors tune for each model: all of a grid are scored
in one batch, on search data. Costs one score for each different profile of the grid, 20 or fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError, ProfileError
from evopress.search.planned import OneBatch
from evopress.search.starts.rounding import nearest

LAMBDAS = (0.02, 0.05, 0.08, 0.1, 0.2)
"""How far sparsities may lie from their mean: the grid of the OWL authors."""

Outliers = Mapping[int, Sequence[float]]
"""M -> the share of outliers of each block."""


def owl_sparsities(outliers: Sequence[float], sparsity: float, strength: float) -> list[float]:
    """One sparsity for each block: `S - t_b + mean(t)` with `t_b = 2 lambda (D_b - min D) / (max D - min D)`.

    `outliers` is D, `sparsity` S, `strength` lambda. The mean is S, all lie within 2 lambda of each other.

    >>> [round(s, 3) for s in owl_sparsities([0.01, 0.02, 0.05], sparsity=0.7, strength=0.08)]
    [0.767, 0.727, 0.607]
    """
    low, high = min(outliers), max(outliers)
    terms = [2 * strength * (share - low) / (high - low) if high > low else 0.0 for share in outliers]
    mean = sum(terms) / len(terms)
    return [sparsity - term + mean for term in terms]


def owl_profile(space: SearchSpace, outliers: Sequence[float], strength: float) -> Profile:
    """The profile within the budget nearest to OWL's sparsities, for the overall sparsity that the budget stands for.

    Costs must be numbers of kept weights. ConfigError when they are not, ProfileError when `outliers` lacks a block.
    """
    if any(not 0 <= cost <= unit.size for unit, costs in zip(space.units, space.costs, strict=True) for cost in costs):
        raise ConfigError("OWL is for sparsity; the costs of this space are not numbers of kept weights")
    last = max(unit.block for unit in space.units)
    if last >= len(outliers):
        raise ProfileError(f"outliers of {len(outliers)} blocks were given, the space needs those of {last + 1}")
    sparsities = owl_sparsities(outliers, 1 - space.budget / space.total_weights, strength)
    return space.decode(nearest(space, [unit.size * (1 - sparsities[unit.block]) for unit in space.units]))


class Owl(OneBatch):
    """Score the profile of every (lambda, M) of the grid; `setting` is the pair that gave the best."""

    def __init__(
        self, space: SearchSpace, outliers: Outliers, *, tokens: int, strengths: Sequence[float] = LAMBDAS
    ) -> None:
        grid = [(strength, multiple) for strength in strengths for multiple in outliers]
        if not grid:
            raise ConfigError(f"OWL's grid of {len(strengths)} lambdas and {len(outliers)} multiples is empty")
        self._settings: dict[Profile, tuple[float, int]] = {}
        for strength, multiple in grid:
            self._settings.setdefault(owl_profile(space, outliers[multiple], strength), (strength, multiple))
        super().__init__(tuple(self._settings), tokens=tokens)

    @property
    def setting(self) -> tuple[float, int]:
        """lambda and M of `best`, the first of those that gave the same profile."""
        return self._settings[self.best]
