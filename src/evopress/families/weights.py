"""What families of weights share: units are linear layers, levels are tensors of a database.

A family of weights is a child of `WeightFamily`: it says how the database is made, what a level costs and
what a profile amounts to. References, baselines, slots, checkpoints and the text format are the same for all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from random import Random
from typing import Any

from evopress.core.profile import DENSE, DENSE_BITS, DROP, Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.database.manifest import LevelEntry, UnitEntry
from evopress.database.methods import Method
from evopress.database.store import Database
from evopress.families.family import KeepsSubLayers, LinesOfLevels, StartsFromReferences, Stored
from evopress.models import ModelMap
from evopress.models.assemble import Load, Slots, Tensors, weight_slots
from evopress.search import BestOf, BruteForce, Knapsack, Strategy, Uniform, knapsack
from evopress.search.moves.adaptive import default_moves
from evopress.search.moves.mutation import Indices
from evopress.search.starts.sensitivity import GAMMAS
from evopress.settings.sections import BudgetSection, SearchSection


def dense_level(size: int) -> LevelEntry:
    """The level of a weight of so many numbers that stays as it is; no database holds it."""
    return LevelEntry(DENSE, None, 0, DENSE_BITS * size, DENSE_BITS * size, error=0.0, damping=0.0)


def _dropped_level() -> LevelEntry:
    """The level of a weight that is dropped with its part."""
    return LevelEntry(DROP, None, 0, 0, 0, error=0.0, damping=0.0)


def layer_errors(database: Database) -> dict[str, dict[str, float]]:
    """unit -> level -> ||(W - Wc) X||^2 / ||W X||^2 of a database's levels, and of weights left dense or dropped."""
    units = database.manifest.units
    return {
        name: {DENSE: 0.0, DROP: 1.0} | {level.name: level.error for level in e.levels} for name, e in units.items()
    }


class WeightFamily(KeepsSubLayers, LinesOfLevels, StartsFromReferences):
    """Implements `Family` but for `method`, `space` and the figures of a profile.

    `database` is asked for when the first thing is wanted that needs the levels: it is made after the method is known.
    """

    gammas = GAMMAS
    moves = default_moves()
    resizes = True

    def __init__(
        self, model: Any, model_map: ModelMap, budget: BudgetSection, database: Callable[[], Database]
    ) -> None:
        self._model, self._map, self._budget, self._database = model, model_map, budget, database

    @property
    @abstractmethod
    def method(self) -> Method:
        """How the database's levels are made."""

    @cached_property
    def weights(self) -> int:
        """How many numbers the weights have together, whatever the budget."""
        return sum(linear.view.size for linear in self._map.linears)

    @property
    def rungs(self) -> tuple[Indices, ...]:
        """What counts as uniform where units call their levels differently."""
        return ()

    @property
    @abstractmethod
    def space(self) -> SearchSpace:
        """The profiles that the budget allows."""

    @abstractmethod
    def figures(self, levels: Sequence[LevelEntry] | None) -> dict[str, float | int]:
        """What the chosen levels, one a unit, amount to beside `bytes`; None is the dense model."""

    def levels(self, entry: UnitEntry) -> tuple[LevelEntry, ...]:
        """The levels of a unit, the cheapest first."""
        return entry.levels

    def units(self, cost: Callable[[UnitEntry, LevelEntry], int]) -> list[Unit]:
        """The database's units with their levels, each with its cost."""
        manifest = self._database().manifest
        return [
            Unit(
                entry.name,
                entry.block,
                entry.role,
                entry.size,
                tuple(Level(level.name, cost(entry, level)) for level in self.levels(entry)),
            )
            for entry in (manifest.units[name] for name in manifest.names)
        ]

    @cached_property
    def layer_errors(self) -> dict[str, dict[str, float]]:
        """unit -> level -> ||(W - Wc) X||^2 / ||W X||^2: what the knapsack adds up."""
        return layer_errors(self._database())

    @cached_property
    def references(self) -> dict[str, Profile]:
        """Uniform, and the knapsack on layer errors."""
        return {"uniform": self.space.uniform(), "dp": knapsack(self.space, self.layer_errors)}

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Uniform, knapsack and the best of random profiles."""
        space, tokens, count = self.space, search.tokens_per_stage[-1], search.start_candidates
        made: dict[str, Callable[[], Strategy]] = {
            "uniform": lambda: Uniform(space, tokens=tokens),
            "dp": lambda: Knapsack(space, self.layer_errors, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=count, tokens=tokens),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    def slots(self, load: Load) -> Slots:
        """One for each linear layer."""
        return weight_slots(self._model, self._map, load)

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """The figures, and bytes of the whole model with the units' levels packed."""
        weights = self.weights
        others = sum(parameter.numel() for parameter in self._model.parameters()) - weights
        levels, stored = None, DENSE_BITS * weights
        if profile is not None:
            units = self._database().manifest.units
            found = {(name, level.name): level for name, entry in units.items() for level in self.levels(entry)}
            gone = _dropped_level()
            levels = [gone if choice[1] == DROP else found[choice] for choice in profile.items()]
            stored = sum(level.storage_bits for level in levels)
        return self.figures(levels) | {"bytes": (stored + DENSE_BITS * others + 7) // 8}

    def stored(self) -> dict[str, dict[str, Stored]]:
        """The database's entries."""
        return {
            name: {own.name: Stored(own.storage_bits, own.code_bits, own.error) for own in self.levels(entry)}
            for name, entry in self._database().manifest.units.items()
        }

    def tensors(self, profile: Profile, database: Database | None) -> Tensors:
        """Dense tensors of the chosen levels: dequantized, or with exact zeros."""
        assert database is not None
        levels = dict(profile.items())
        return {
            linear.view.parameter: partial(database.dense, linear.name, levels[linear.name])
            for linear in self._map.linears
            if levels[linear.name] not in (DENSE, DROP)
        }

    def learns(self, profile: Profile) -> dict[str, str]:
        """All that are not left dense."""
        levels = dict(profile.items())
        return {own.name: levels[own.name] for own in self._map.linears if levels[own.name] != DENSE}
