"""Mixed bit-widths: units are linear layers, levels are bit-widths from the database."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from evopress.applications.weights import DENSE_BITS, WeightApplication, dense_level
from evopress.database.manifest import LevelEntry, UnitEntry
from evopress.database.methods import Quantization
from evopress.errors import ConfigError
from evopress.models import ModelMap
from evopress.profile import DENSE, tie
from evopress.sections import QuantizeSection
from evopress.space import SearchSpace, make_space

if TYPE_CHECKING:
    from evopress.workspace import Workspace


class Quantize(WeightApplication):
    """Implements `Application`. ConfigError when the group size does not fit a layer."""

    def __init__(self, workspace: Workspace, section: QuantizeSection) -> None:
        super().__init__(workspace)
        self._section = section
        _require_group_size(workspace.map, section.group_size, whole=workspace.config.target is not None)

    @cached_property
    def method(self) -> Quantization:
        """GPTQ or round-to-nearest."""
        section = self._section
        propagate = section.propagate
        if propagate == "auto":
            propagate = "3" if "3" in section.levels else section.levels[0]
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
        budget = self._workspace.config.budget
        stored = budget.counts == "bpw"
        units = self.units(lambda _, level: level.storage_bits if stored else level.code_bits)
        if target := self._workspace.config.target:
            own = {unit.name: unit for unit in units}
            units = [tie([own[linear.name] for linear in tied]) for tied in target.ties(self._workspace.map.linears)]
        return make_space(units, average=budget.target, exchange=budget.exchange)

    def levels(self, entry: UnitEntry) -> tuple[LevelEntry, ...]:
        """Those of the database, and the dense weight where the run has it as a level."""
        return entry.levels + ((dense_level(entry.size),) if DENSE in self._section.levels else ())

    def figures(self, levels: Sequence[LevelEntry] | None) -> dict[str, float | int]:
        """Average code bits and stored bits (bpw) of the compressed layers."""
        weights = self.space.total_weights
        codes = stored = DENSE_BITS * weights
        if levels is not None:
            codes = sum(level.code_bits for level in levels)
            stored = sum(level.storage_bits for level in levels)
        return {"bits": codes / weights, "bpw": stored / weights}


def _require_group_size(model_map: ModelMap, size: int | None, *, whole: bool) -> None:
    """ConfigError when groups of that size do not fit a layer, or leave a smaller one where all must be `whole`."""
    for linear in model_map.linears:
        columns = linear.view.shape[1]
        if size is not None and size > columns:
            raise ConfigError(
                f"group size {size} is larger than the {columns} inputs of {linear.name}; "
                f"use at most {columns}, or 0 for one group a row"
            )
        if size is not None and whole and columns % size:
            raise ConfigError(
                f"group size {size} does not divide the {columns} inputs of {linear.name}, as the target needs; "
                f"use a smaller one, or 0 for one group a row"
            )
