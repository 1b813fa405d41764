"""Mixed bit-widths: units are linear layers, levels are bit-widths from the database."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

from evopress.applications.application import Tensors
from evopress.assemble import Load, Slots, weight_slots
from evopress.database.methods import Quantization
from evopress.errors import ConfigError
from evopress.models import ModelMap
from evopress.profile import Level, Profile, Unit
from evopress.search import BestOf, BruteForce, Knapsack, Strategy, Uniform, knapsack
from evopress.sections import QuantizeSection
from evopress.space import SearchSpace, make_space

if TYPE_CHECKING:
    from evopress.workspace import Workspace

DENSE_BITS = 16
"""Bits a dense weight counts as, whatever dtype the run computes in: half precision is what models are served in."""


class Quantize:
    """Implements `Application`. ConfigError when the group size does not fit a layer."""

    def __init__(self, workspace: Workspace, section: QuantizeSection) -> None:
        self._workspace, self._section = workspace, section
        _require_group_size(workspace.map, section.group_size)

    @cached_property
    def method(self) -> Quantization:
        """GPTQ or round-to-nearest."""
        section = self._section
        propagate = section.propagate
        if propagate == "auto":
            propagate = "3" if 3 in section.levels else str(section.levels[0])
        return Quantization(
            name=section.method,
            grids=section.grids(),
            damping=section.damping,
            act_order=section.act_order,
            propagate=propagate,
        )

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are code bits, or stored bits with scales and zeros."""
        budget, manifest = self._workspace.config.budget, self._workspace.database.manifest
        stored = budget.counts == "bpw"
        units = []
        for entry in (manifest.units[name] for name in manifest.names):
            levels = (Level(level.name, level.storage_bits if stored else level.code_bits) for level in entry.levels)
            units.append(Unit(entry.name, entry.block, entry.role, entry.size, tuple(levels)))
        return make_space(units, average=budget.target, exchange=budget.exchange)

    @cached_property
    def references(self) -> dict[str, Profile]:
        """Uniform, and the knapsack on layer errors."""
        return {"uniform": self.space.uniform(), "dp": knapsack(self.space, self._workspace.layer_errors)}

    def baselines(self, rng: Random, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Uniform, knapsack and the best of random profiles."""
        space, tokens = self.space, self._workspace.config.search.tokens_per_stage[-1]
        count = self._workspace.config.search.start_candidates
        made: dict[str, Callable[[], Strategy]] = {
            "uniform": lambda: Uniform(space, tokens=tokens),
            "dp": lambda: Knapsack(space, self._workspace.layer_errors, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=count, tokens=tokens),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    def slots(self, load: Load) -> Slots:
        """One for each linear layer."""
        return weight_slots(self._workspace.loaded.model, self._workspace.map, load)

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Average code bits and stored bits (bpw) of the compressed layers, and bytes of the whole packed model."""
        weights = self.space.total_weights
        others = self._workspace.shapes.parameters - weights
        codes = stored = DENSE_BITS * weights
        if profile is not None:
            units = self._workspace.database.manifest.units
            levels = [units[name].level(level) for name, level in profile.items()]
            codes = sum(level.code_bits for level in levels)
            stored = sum(level.storage_bits for level in levels)
        return {
            "bits": codes / weights,
            "bpw": stored / weights,
            "bytes": (stored + DENSE_BITS * others + 7) // 8,
        }

    def tensors(self, profile: Profile) -> Tensors:
        """Dequantized weights."""
        return self._workspace.dense_tensors(profile)

    def to_text(self, profile: Profile) -> str:
        """`name: level` lines."""
        return profile.to_text()

    def from_text(self, text: str) -> Profile:
        """`name: level` lines."""
        return Profile.from_text(text)


def _require_group_size(model_map: ModelMap, size: int | None) -> None:
    for linear in model_map.linears:
        if size is not None and size > linear.view.shape[1]:
            raise ConfigError(
                f"group size {size} is larger than the {linear.view.shape[1]} inputs of {linear.name}; "
                f"use at most {linear.view.shape[1]}, or 0 for one group a row"
            )
