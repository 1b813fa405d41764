"""Dropping experts: units are the experts of each layer, levels `drop` and `keep`. Needs no database.

Every layer loses as many, since a checkpoint has one number of experts for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from random import Random
from typing import Any

from evopress.core.profile import DROP, KEEP, Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.database.store import Database
from evopress.errors import BudgetError, ConfigError, ProfileError
from evopress.families.family import KeepsSubLayers, LinesOfLevels, Stored, stored_or_gone
from evopress.models.assemble import Load, Slots, Tensors
from evopress.models.routing import Routed, expert_slots, sizes_of_experts
from evopress.models.saliency import Saliency
from evopress.search import BestOf, BruteForce, Strategy
from evopress.search.baselines.scored import Scored, least
from evopress.search.moves.mutation import free_switches
from evopress.search.starts.sensitivity import GAMMAS
from evopress.settings.sections import BudgetSection, DropSection, SearchSection


class DropExperts(KeepsSubLayers, LinesOfLevels):
    """Implements `Family`. `saliency` measures the experts when it is first asked for.

    BudgetError when a layer would keep fewer experts than a token needs, ConfigError for a budget that is no share.
    """

    method = None
    gammas = GAMMAS
    resizes = True

    def __init__(
        self,
        model: Any,
        section: DropSection,
        budget: BudgetSection,
        layers: Sequence[Routed],
        saliency: Callable[[], Saliency],
        n_blocks: int,
    ) -> None:
        self._model, self._section, self._budget, self._blocks = model, section, budget, n_blocks
        self.layers, self._saliency = tuple(layers), saliency
        if budget.counts != "count":
            raise ConfigError(
                f"experts are dropped by their share, as many in every layer; give --fraction, not {budget.counts}"
            )
        names = {layer.expert(number) for layer in layers for number in range(layer.count)}
        if odd := sorted(set(section.protected) - names):
            raise ConfigError(f"--protected names {odd[0]}, which is no expert; experts are called {min(names)}")

    @cached_property
    def space(self) -> SearchSpace:
        """round(fraction x n) of the n experts of each layer are dropped."""
        fraction, units, groups, limits = Fraction(self._budget.target), list[Unit](), [], []
        for layer, size in sizes_of_experts(self._model, self.layers):
            count = math.floor(fraction * layer.count + Fraction(1, 2))
            own = [self._unit(layer, number, size) for number in range(layer.count)]
            droppable = sum(len(unit.levels) > 1 for unit in own)
            most = min(layer.count - layer.chosen, droppable)
            if not 0 < count <= most:
                said = f"{most} of its {layer.count} experts can go, as a token needs {layer.chosen}"
                if droppable < layer.count - layer.chosen:
                    said = f"only {droppable} of its {layer.count} experts are not protected"
                raise BudgetError(f"a fraction of {self._budget.target} drops {count} experts of {layer.path}: {said}")
            groups.append(tuple(range(len(units), len(units) + layer.count)))
            limits.append((layer.count - count) * size)
            units += own
        return SearchSpace(tuple(units), sum(limits), tuple(groups), tuple(limits))

    def _unit(self, layer: Routed, number: int, size: int) -> Unit:
        name, keep = layer.expert(number), Level(KEEP, size)
        levels = (keep,) if name in self._section.protected else (Level(DROP, 0), keep)
        return Unit(name, layer.block, layer.path.partition(f".{layer.block}.")[2] or layer.path, size, levels)

    @cached_property
    def references(self) -> dict[str, Profile]:
        """REAP's choice."""
        return {"reap": least(self.space, self._saliency().weighted)}

    @cached_property
    def starts(self) -> dict[str, Profile]:
        """REAP's and that of the least chosen."""
        return self.references | {"frequency": least(self.space, self._saliency().frequency)}

    @property
    def start_tokens(self) -> int:
        """One pass over a part of the search text."""
        return self._saliency().tokens

    @property
    def moves(self) -> Mapping[str, Any]:
        """Experts of a layer stand in for each other; nothing is known of those of different layers."""
        return {"switch": free_switches}

    def scored_start(self, tokens: int) -> Strategy | None:
        """None: one pass over text has scored all."""
        return None

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """The least frequent, REAP's, and the best of random choices."""
        space, tokens, count = self.space, search.tokens_per_stage[-1], search.start_candidates
        found = self._saliency()
        made: dict[str, Callable[[], Strategy]] = {
            "frequency": lambda: Scored(space, found.frequency, tokens=tokens),
            "reap": lambda: Scored(space, found.weighted, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=count, tokens=tokens),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    def slots(self, load: Load) -> Slots:
        """One for each expert."""
        return expert_slots(self._model, self.layers, self._blocks)

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Dropped experts of each layer, parameters that are left, and bytes of a checkpoint's weights."""
        whole = sum(parameter.numel() for parameter in self._model.parameters())
        gone = [] if profile is None else [unit for unit in self.space.units if profile[unit.name] == DROP]
        left = whole - sum(unit.size for unit in gone)
        return {
            "dropped_experts": len(gone) // len(self.layers),
            "parameters": left,
            "bytes": self._model.dtype.itemsize * left,
        }

    def stored(self) -> dict[str, dict[str, Stored]]:
        """Half precision, or nothing."""
        return stored_or_gone(self.space.units)

    def kept(self, profile: Profile) -> dict[str, tuple[int, ...]]:
        """Layer -> the numbers of its experts that stay; ProfileError where layers differ in how many."""
        found = {
            layer.path: tuple(number for number in range(layer.count) if profile[layer.expert(number)] == KEEP)
            for layer in self.layers
        }
        counts = sorted({len(numbers) for numbers in found.values()})
        if len(counts) > 1:
            raise ProfileError(
                f"the profile keeps {counts[0]} to {counts[-1]} experts a layer; a checkpoint says one number for all"
            )
        return found

    def tensors(self, profile: Profile, database: Database | None) -> Tensors:
        """None: what stays is as it was."""
        return {}

    def learns(self, profile: Profile) -> dict[str, str]:
        """Nothing yet."""
        return {}
