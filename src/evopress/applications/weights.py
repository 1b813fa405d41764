"""What applications on weights share: units are linear layers, levels are tensors of a database.

An application on weights is a child of `WeightApplication`: it says how the database is made, what a level costs and
what a profile amounts to. References, baselines, slots, checkpoints and the text format are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

from evopress.applications.application import Stored, Tensors
from evopress.assemble import Load, Slots, weight_slots
from evopress.database.manifest import LevelEntry, UnitEntry
from evopress.database.methods import Method
from evopress.profile import DENSE, DENSE_BITS, Level, Profile, Unit
from evopress.search import BestOf, BruteForce, Knapsack, Strategy, Uniform, knapsack
from evopress.search.sensitivity import GAMMAS
from evopress.space import SearchSpace

if TYPE_CHECKING:
    from evopress.workspace import Workspace


def dense_level(size: int) -> LevelEntry:
    """The level of a weight of so many numbers that stays as it is; no database holds it."""
    return LevelEntry(DENSE, None, 0, DENSE_BITS * size, DENSE_BITS * size, error=0.0, damping=0.0)


class WeightApplication(ABC):
    """Implements `Application` but for `method`, `space` and the figures of a profile."""

    gammas = GAMMAS

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    @abstractmethod
    def method(self) -> Method:
        """How the database's levels are made."""

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
        manifest = self._workspace.database.manifest
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
    def references(self) -> dict[str, Profile]:
        """Uniform, and the knapsack on layer errors."""
        return {"uniform": self.space.uniform(), "dp": knapsack(self.space, self._workspace.layer_errors)}

    @property
    def starts(self) -> dict[str, Profile]:
        """The references."""
        return self.references

    @property
    def start_tokens(self) -> int:
        """Nothing: layer errors come with the database."""
        return 0

    @property
    def scored_start(self) -> Strategy | None:
        """None: the knapsack needs no scores."""
        return None

    def baselines(self, rng: Random, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Uniform, knapsack and the best of random profiles."""
        space, search = self.space, self._workspace.config.search
        tokens, count = search.tokens_per_stage[-1], search.start_candidates
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
        """The figures, and bytes of the whole model with the units' levels packed."""
        weights = self.space.total_weights
        others = self._workspace.shapes.parameters - weights
        levels, stored = None, DENSE_BITS * weights
        if profile is not None:
            units = self._workspace.database.manifest.units
            found = {(name, level.name): level for name, entry in units.items() for level in self.levels(entry)}
            levels = [found[choice] for choice in profile.items()]
            stored = sum(level.storage_bits for level in levels)
        return self.figures(levels) | {"bytes": (stored + DENSE_BITS * others + 7) // 8}

    def stored(self) -> dict[str, dict[str, Stored]]:
        """The database's entries."""
        return {
            name: {own.name: Stored(own.storage_bits, own.code_bits, own.error) for own in self.levels(entry)}
            for name, entry in self._workspace.database.manifest.units.items()
        }

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """None: all blocks stay."""
        return ()

    def tensors(self, profile: Profile) -> Tensors:
        """Dense tensors of the chosen levels: dequantized, or with exact zeros."""
        return self._workspace.dense_tensors(profile)

    def to_text(self, profile: Profile) -> str:
        """`name: level` lines."""
        return profile.to_text()

    def from_text(self, text: str) -> Profile:
        """`name: level` lines."""
        return Profile.from_text(text)
