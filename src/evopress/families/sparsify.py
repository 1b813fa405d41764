"""Non-uniform sparsity: units are linear layers, levels are numbers of zeros, the budget is the weights that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property
from random import Random
from typing import Any

import torch

from evopress.core.space import SearchSpace, make_space
from evopress.database.manifest import LevelEntry
from evopress.database.methods import Pruning
from evopress.database.store import Database
from evopress.errors import BudgetError
from evopress.families.weights import WeightFamily
from evopress.levels.levels import Pattern, Sparsity, sparsity_levels
from evopress.models import Influence, ModelMap
from evopress.search import Owl, Strategy
from evopress.settings.sections import BudgetSection, SearchSection, SparsifySection


class Sparsify(WeightFamily):
    """Implements `Family`.

    Unstructured levels are named by their distance from the target in steps, as in the official code: "0" is the
    target's sparsity, "2" two steps sparser, "-2" two steps denser. Those of a pattern are called "1:4", "2:4", ...
    """

    gammas = (3.0, 5.0, 8.0, 12.0, 20.0)  # many small steps: what trusts the sums more goes to the ends of the levels

    resizes = False

    def __init__(
        self,
        model: Any,
        model_map: ModelMap,
        section: SparsifySection,
        budget: BudgetSection,
        database: Callable[[], Database],
        *,
        influence: Callable[[], Influence],
    ) -> None:
        super().__init__(model, model_map, budget, database)
        self._section, self._influence = section, influence

    @cached_property
    def method(self) -> Pruning:
        """SparseGPT, Wanda or magnitude."""
        section, own = self._section, self._model.dtype
        uniform = "0" if section.group is None else section.pattern
        return Pruning(
            name=section.method,
            levels=self._levels(),
            dtype=own if own in (torch.bfloat16, torch.float16) else torch.bfloat16,
            damping=section.damping,
            mismatch=section.mismatch if section.method == "sparsegpt" else 0.0,
            propagate=uniform if section.propagate == "uniform" else "dense",
        )

    def _levels(self) -> dict[str, dict[str, Sparsity]]:
        """unit -> level -> zeros or pattern, the sparsest first."""
        linears = self._map.linears
        if self._section.group is not None:
            group = self._section.group
            patterns: dict[str, Sparsity] = {
                str(pattern): pattern for pattern in (Pattern(kept, group) for kept in range(1, group + 1))
            }
            for linear in linears:
                Pattern(1, group).zeros(linear.view.shape)
            return {linear.name: patterns for linear in linears}
        sizes = [linear.view.size for linear in linears]
        found = sparsity_levels(sizes, self._budget.target, step=self._section.step)
        return {
            linear.name: {str(offset): zeros for offset, zeros in reversed(own)}
            for linear, own in zip(linears, found, strict=True)
        }

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are kept weights. BudgetError says the nearest sparsity when the levels cannot reach the target."""
        budget = self._budget
        units = self.units(lambda entry, level: entry.size - level.zeros)
        total = sum(unit.size for unit in units)
        kept = 1 - Fraction(budget.target)
        lowest = Fraction(sum(unit.levels[0].cost for unit in units), total)
        highest = Fraction(sum(unit.levels[-1].cost for unit in units), total)
        if not lowest <= kept <= highest:
            nearest = 1 - (lowest if kept < lowest else highest)
            raise BudgetError(
                f"no combination of levels has a sparsity of {budget.target}; the nearest is {float(nearest):.6g}"
            )
        return make_space(units, average=kept, exchange=budget.exchange)

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Those on weights, and OWL."""
        tokens = search.tokens_per_stage[-1]
        return super().baselines(rng, search, brute) | {
            "owl": lambda: Owl(self.space, self._influence().outliers, tokens=tokens)
        }

    def figures(self, levels: Sequence[LevelEntry] | None) -> dict[str, float | int]:
        """Zeros per weight of the compressed layers."""
        return {"sparsity": sum(level.zeros for level in levels or ()) / self.space.total_weights}
