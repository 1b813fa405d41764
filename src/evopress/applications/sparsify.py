"""Non-uniform sparsity: units are linear layers, levels are numbers of zeros, the budget is the weights that stay."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

import torch

from evopress.applications.application import Tensors
from evopress.assemble import Load, Slots, weight_slots
from evopress.compress.levels import Pattern, Sparsity, sparsity_levels
from evopress.database.methods import Pruning
from evopress.errors import BudgetError
from evopress.profile import Level, Profile, Unit
from evopress.search import BestOf, BruteForce, Knapsack, Owl, Strategy, Uniform, knapsack
from evopress.sections import SparsifySection
from evopress.space import SearchSpace, make_space

if TYPE_CHECKING:
    from evopress.workspace import Workspace

DENSE_BITS = 16


class Sparsify:
    """Implements `Application`.

    Unstructured levels are named by their distance from the target in steps, as in the official code: "0" is the
    target's sparsity, "2" two steps sparser, "-2" two steps denser. Those of a pattern are called "1:4", "2:4", ...
    """

    def __init__(self, workspace: Workspace, section: SparsifySection) -> None:
        self._workspace, self._section = workspace, section

    @cached_property
    def method(self) -> Pruning:
        """SparseGPT, Wanda or magnitude."""
        section, own = self._section, self._workspace.loaded.model.dtype
        uniform = "0" if section.group is None else section.pattern
        return Pruning(
            name=section.method,
            levels=self._levels(),
            dtype=own if own in (torch.bfloat16, torch.float16) else torch.bfloat16,
            damping=section.damping,
            propagate=uniform if section.propagate == "uniform" else "dense",
        )

    def _levels(self) -> dict[str, dict[str, Sparsity]]:
        """unit -> level -> zeros or pattern, the sparsest first."""
        linears = self._workspace.map.linears
        if self._section.group is not None:
            group = self._section.group
            patterns: dict[str, Sparsity] = {
                str(pattern): pattern for pattern in (Pattern(kept, group) for kept in range(1, group + 1))
            }
            for linear in linears:
                Pattern(1, group).zeros(linear.view.shape)
            return {linear.name: patterns for linear in linears}
        sizes = [linear.view.shape[0] * linear.view.shape[1] for linear in linears]
        found = sparsity_levels(sizes, self._workspace.config.budget.target, step=self._section.step)
        return {
            linear.name: {str(offset): zeros for offset, zeros in reversed(own)}
            for linear, own in zip(linears, found, strict=True)
        }

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are kept weights. BudgetError says the nearest sparsity when the levels cannot reach the target."""
        budget, manifest = self._workspace.config.budget, self._workspace.database.manifest
        units = []
        for entry in (manifest.units[name] for name in manifest.names):
            levels = (Level(level.name, entry.size - level.zeros) for level in entry.levels)
            units.append(Unit(entry.name, entry.block, entry.role, entry.size, tuple(levels)))
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

    @cached_property
    def references(self) -> dict[str, Profile]:
        """Uniform, and the knapsack on layer errors."""
        return {"uniform": self.space.uniform(), "dp": knapsack(self.space, self._workspace.layer_errors)}

    def baselines(self, rng: Random, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Uniform, knapsack, OWL and the best of random profiles."""
        space, tokens = self.space, self._workspace.config.search.tokens_per_stage[-1]
        count = self._workspace.config.search.start_candidates
        made: dict[str, Callable[[], Strategy]] = {
            "uniform": lambda: Uniform(space, tokens=tokens),
            "dp": lambda: Knapsack(space, self._workspace.layer_errors, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=count, tokens=tokens),
            "owl": lambda: Owl(space, self._workspace.influence.outliers, tokens=tokens),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    def slots(self, load: Load) -> Slots:
        """One for each linear layer."""
        return weight_slots(self._workspace.loaded.model, self._workspace.map, load)

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Zeros per weight of the compressed layers, and bytes of the whole model with these packed (mask, values)."""
        weights = self.space.total_weights
        others = self._workspace.shapes.parameters - weights
        zeros, stored = 0, DENSE_BITS * weights
        if profile is not None:
            units = self._workspace.database.manifest.units
            levels = [units[name].level(level) for name, level in profile.items()]
            zeros = sum(level.zeros for level in levels)
            stored = sum(level.storage_bits for level in levels)
        return {"sparsity": zeros / weights, "bytes": (stored + DENSE_BITS * others + 7) // 8}

    def tensors(self, profile: Profile) -> Tensors:
        """Dense weights with exact zeros."""
        return self._workspace.dense_tensors(profile)

    def to_text(self, profile: Profile) -> str:
        """`name: level` lines."""
        return profile.to_text()

    def from_text(self, text: str) -> Profile:
        """`name: level` lines."""
        return Profile.from_text(text)
