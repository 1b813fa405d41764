"""Mixed bit-widths: units are linear layers, levels are bit-widths from the database."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

from evopress.core.costs import FileCosts, require_average, require_size
from evopress.core.profile import DENSE, DENSE_BITS, Unit, nearest_level, tie
from evopress.core.space import SearchSpace, exchange_groups, make_space
from evopress.database.manifest import LevelEntry, UnitEntry
from evopress.database.methods import Quantization
from evopress.database.store import Database
from evopress.errors import ConfigError
from evopress.families.weights import WeightFamily, dense_level
from evopress.levels.grid import Grid, named_grids
from evopress.levels.quantized import storage_bits
from evopress.models import Linear, ModelMap
from evopress.settings.sections import BudgetSection, QuantizeSection
from evopress.settings.targets import Target, tied_experts


class Quantize(WeightFamily):
    """Implements `Family`. ConfigError when the group size does not fit a layer.

    `target` is the runtime that will serve it, if that is known; `files` says what its files cost where the budget is
    their size. `alone`: nothing else is searched with it that could meet a budget which levels cannot.
    """

    def __init__(
        self,
        model: Any,
        model_map: ModelMap,
        section: QuantizeSection,
        budget: BudgetSection,
        database: Callable[[], Database],
        *,
        target: Target | None,
        files: Callable[[], FileCosts],
        alone: bool = True,
    ) -> None:
        super().__init__(model, model_map, budget, database)
        self._section, self._target, self._files = section, target, files
        self._require_fit()
        if alone and budget.counts == "size":
            costs, size = files(), int(Fraction(budget.target))
            require_size(size, costs.constant, [sorted(own.values()) for own in costs.levels.values()])
        elif alone:
            self._require_average()

    @cached_property
    def method(self) -> Quantization:
        """GPTQ or round-to-nearest."""
        section = self._section
        propagate = self._nearest() if section.propagate == "auto" else section.propagate
        return Quantization(
            name="rtn" if section.method == "rtn" else "gptq",
            grids=self._grids,
            damping=section.damping,
            act_order=section.act_order,
            search=section.scales == "searched",
            rounds=section.refine,
            mismatch=section.mismatch,
            propagate=propagate,
        )

    @property
    def _grids(self) -> dict[str, Grid]:
        return named_grids(self._section.widths, self._section.group_size, self._section.symmetric)

    def _nearest(self) -> str:
        """The level that costs, given to all units, what comes nearest to the budget: what later blocks will see."""
        budget, grids = self._budget, self._grids
        shapes = [linear.view.shape for linear in self._map.linears]
        if budget.counts == "size":
            files = self._files()
            own = files.levels.values()
            sizes = {level: files.constant + sum(costs[level] for costs in own) for level in grids}
            return nearest_level(sizes, Fraction(budget.target))
        weights = sum(rows * columns for rows, columns in shapes)
        stored = {level: sum(storage_bits(shape, grid) for shape in shapes) for level, grid in grids.items()}
        codes = {level: grid.bits * weights for level, grid in grids.items()}
        return nearest_level(stored if budget.counts == "bpw" else codes, Fraction(budget.target) * weights)

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are code bits, stored bits with scales and zeros, or bytes of files, the constant part set aside."""
        units, exchange = self.priced(), self._budget.exchange
        if self._budget.counts == "size":
            return SearchSpace(tuple(units), self.limit, exchange_groups(units, exchange))
        return make_space(units, average=self._budget.target, exchange=exchange)

    def priced(self) -> list[Unit]:
        """The units with what the budget counts of each level."""
        if self._budget.counts == "size":
            files = self._files()
            return self._tied(self.units(lambda entry, level: files.levels[entry.name][level.name]))
        return self._tied(self.units(lambda _, level: self._bits(level)))

    @property
    def limit(self) -> int:
        """What all units may cost together."""
        if self._budget.counts == "size":
            return int(Fraction(self._budget.target)) - self._files().constant
        return math.floor(Fraction(self._budget.target) * self.weights)

    def ahead(self) -> dict[str, list[int]]:
        """What the levels of each weight cost, known before they are made."""
        linears, levels = self._map.linears, self._section.levels
        if self._budget.counts == "size":
            return {name: list(own.values()) for name, own in self._files().levels.items()}
        if self._budget.counts == "bits":
            return {linear.name: [int(level) * linear.view.size for level in levels] for linear in linears}
        dense = [DENSE_BITS] if DENSE in levels else []
        return {
            linear.name: [
                *self.method.level_bits(linear.name, linear.view.shape).values(),
                *(own * linear.view.size for own in dense),
            ]
            for linear in linears
        }

    def _bits(self, level: LevelEntry) -> int:
        """What a level costs where the budget is an average."""
        return level.storage_bits if self._budget.counts == "bpw" else level.code_bits

    def _require_fit(self) -> None:
        """ConfigError when the levels do not fit the model."""
        _require_group_size(self._map, self._section.group_size, whole=self._target is not None)

    def _require_average(self) -> None:
        """BudgetError when the levels cannot have so many stored bits."""
        if self._budget.counts != "bpw":
            return
        bits, target = list(self.ahead().values()), self._budget.target
        asked = f"--bpw {target}, scales and zeros counted,"
        require_average(Fraction(target), self.weights, sum(map(min, bits)), sum(map(max, bits)), asked)

    def _tied(self, units: Sequence[Unit]) -> list[Unit]:
        """The units, those that the target fuses as one, and the experts that share a level."""
        own = {unit.name: unit for unit in units}
        groups = self._target.ties(self._map.linears) if self._target else [(one,) for one in self._map.linears]
        tied: dict[tuple[str, str], list[Unit]] = {}
        for first, *others in groups:
            name = experts_that_share(first, tied_experts(self._section, self._target)) or first.name
            role = name.removeprefix(first.name.removesuffix(first.role))
            tied.setdefault((name, role), []).append(tie([own[linear.name] for linear in (first, *others)]))
        return [tie(members, *called) for called, members in tied.items()]

    def levels(self, entry: UnitEntry) -> tuple[LevelEntry, ...]:
        """Those of the database, and the dense weight where the run has it as a level."""
        return entry.levels + ((dense_level(entry.size),) if DENSE in self._section.levels else ())

    def figures(self, levels: Sequence[LevelEntry] | None) -> dict[str, float | int]:
        """Average code bits and stored bits (bpw) of the compressed layers."""
        weights = self.weights
        codes = stored = DENSE_BITS * weights
        if levels is not None:
            codes = sum(level.code_bits for level in levels)
            stored = sum(level.storage_bits for level in levels)
        return {"bits": codes / weights, "bpw": stored / weights}


def experts_that_share(linear: Linear, how: str) -> str:
    """What the experts' matrices that share a level with this one are called together; empty for all that do not.

    >>> from evopress.models.describe import WeightView
    >>> view = WeightView("b.0.experts.5.down.weight", None, False, (4, 8))
    >>> own = Linear("b.0.experts.5.down", 0, "experts.5.down", view, "b.0.experts.5.down", "b.0.experts")
    >>> [experts_that_share(own, how) for how in ("each", "matrix", "layer")]
    ['', 'b.0.experts.down', 'b.0.experts']
    """
    if not linear.experts or how == "each":
        return ""
    return linear.experts if how == "layer" else f"{linear.experts}.{linear.name.rpartition('.')[2]}"


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
