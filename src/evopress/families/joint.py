"""Several families in one search: levels for weights, and parts of the model that are dropped with all of theirs.

Composes a family of weights and the one of depth without knowing how either works: units and levels are those of the
weights, each with the level `drop` before its own, and the weights of a part that can be dropped are a bundle of the
space. A profile names every weight; which parts it drops is read from their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from random import Random

from evopress.core.costs import FileCosts, require_average, require_size
from evopress.core.profile import DROP, KEEP, Level, Profile, Unit
from evopress.core.space import SearchSpace, exchange_groups
from evopress.database.methods import Method
from evopress.database.store import Database
from evopress.errors import BudgetError, UnsupportedModel
from evopress.families.drop import Drop
from evopress.families.family import Family, LinesOfLevels, StartsFromReferences, Stored
from evopress.families.quantize import Quantize
from evopress.models import ModelMap, SubLayer
from evopress.models.assemble import Load, Slots, Switch, Tensors, weight_slots
from evopress.models.bypass import Switch as Bypassed
from evopress.models.bypass import part_switches
from evopress.search import BestOf, Strategy
from evopress.search.moves.bundles import bundle_moves
from evopress.search.moves.mutation import Mutation
from evopress.search.planned import OneBatch
from evopress.search.starts.bundles import drop_then_quantize
from evopress.settings.sections import BudgetSection, SearchSection


def together(
    families: Sequence[Family], map: ModelMap, budget: BudgetSection, files: Callable[[], FileCosts]
) -> Family:
    """The families of a run as one: a list with one entry is this entry. `files` says what their files cost."""
    if len(families) == 1:
        return families[0]
    weights, drop = families
    assert isinstance(weights, Quantize)
    assert isinstance(drop, Drop)
    return Joint(weights, drop, map, budget, files)


class Joint(LinesOfLevels, StartsFromReferences):
    """Implements `Family`. BudgetError for a budget below all but one part dropped, or above everything dense.

    UnsupportedModel where no part that can be dropped has weights with levels, or blocks share weights.
    """

    resizes = True

    def __init__(
        self, weights: Quantize, drop: Drop, map: ModelMap, budget: BudgetSection, files: Callable[[], FileCosts]
    ) -> None:
        self._weights, self._drop, self._map, self._budget, self._files = weights, drop, map, budget, files
        if map.again:
            again = map.again[0]
            raise UnsupportedModel(
                f"{again.name} uses a weight of another block; drops beside levels need blocks apart"
            )
        if len(self.members) < 2:
            raise UnsupportedModel("fewer than 2 parts with compressed weights can be dropped; use evopress quantize")
        self._require_possible()

    @property
    def method(self) -> Method:
        """That of the weights: levels do not depend on what is dropped."""
        return self._weights.method

    @property
    def gammas(self) -> tuple[float, ...]:
        """Those of the weights."""
        return self._weights.gammas

    @property
    def moves(self) -> Mapping[str, Mutation]:
        """Those of the weights, and those across families."""
        return {**self._weights.moves, **bundle_moves()}

    @cached_property
    def _parts(self) -> dict[str, tuple[SubLayer, ...]]:
        """What can be dropped: parts with compressed weights in each of their blocks."""
        found = {}
        for name, group in self._drop.parts.items():
            inside = self._inside(group)
            if all(any(self._blocks[own] == sublayer.block for own in inside) for sublayer in group):
                found[name] = group
        return found

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Part -> the names of its weights, in the model's order."""
        return {name: self._inside(group) for name, group in self._parts.items()}

    @cached_property
    def _blocks(self) -> dict[str, int]:
        return {linear.name: linear.block for linear in self._map.linears}

    def _inside(self, group: Sequence[SubLayer]) -> tuple[str, ...]:
        modules = [module for sublayer in group for module in (sublayer.writer, *sublayer.servants)]
        return tuple(
            linear.name
            for linear in self._map.linears
            if any(linear.name == module or linear.name.startswith(f"{module}.") for module in modules)
        )

    @cached_property
    def _extra(self) -> dict[str, int]:
        """Weight -> what its part takes beside levels, in bytes of files; the first of a part pays for it."""
        if self._budget.counts != "size":
            return {}
        parts = self._files().parts
        return {members[0]: parts[name] for name, members in self.members.items()}

    @property
    def _always(self) -> int:
        """What every profile takes beside levels: the constant of files, and parts that cannot be dropped."""
        files = self._files()
        return files.constant + sum(own for name, own in files.parts.items() if name not in self.members)

    @property
    def _limit(self) -> int:
        """What all units may cost together."""
        if self._budget.counts == "size":
            return int(Fraction(self._budget.target)) - self._always
        return self._weights.limit

    def _require_possible(self) -> None:
        """Before any level is made: what the levels and drops allow."""
        ahead, inside = self._weights.ahead(), {name for own in self.members.values() for name in own}
        floors = [
            sum(min(ahead[name]) + self._extra.get(name, 0) for name in members) for members in self.members.values()
        ]
        low = sum(min(costs) for name, costs in ahead.items() if name not in inside) + min(floors)
        high = sum(map(max, ahead.values())) + sum(self._extra.values())
        budget = self._budget
        if budget.counts == "size":
            require_size(int(Fraction(budget.target)), self._always, [[low, high]])
        else:
            asked = f"--{budget.counts} {budget.target}, what is dropped counted as 0,"
            require_average(Fraction(budget.target), self._weights.weights, low, high, asked)

    @cached_property
    def space(self) -> SearchSpace:
        """Costs are those of the weights, and nothing for what is dropped."""
        units = [self._droppable(unit) for unit in self._weights.priced()]
        at = {name: position for position, unit in enumerate(units) for name in unit.named}
        bundles = tuple(tuple(dict.fromkeys(at[name] for name in own)) for own in self.members.values())
        inside = {unit for bundle in bundles for unit in bundle}
        rungs = tuple(
            tuple(level + (unit in inside) for unit, level in enumerate(rung)) for rung in self._weights.rungs
        )
        return SearchSpace(tuple(units), self._limit, exchange_groups(units, "any"), rungs=rungs, bundles=bundles)

    def _droppable(self, unit: Unit) -> Unit:
        """A unit with the level `drop` before its own, if it lies in a part, and what the part takes beside levels."""
        if not any(unit.named[0] in own for own in self.members.values()):
            return unit
        extra = sum(self._extra.get(name, 0) for name in unit.named)
        levels = (Level(DROP, 0), *(Level(level.name, level.cost + extra) for level in unit.levels))
        return replace(unit, levels=levels, members=tuple(map(self._droppable, unit.members)))

    @cached_property
    def references(self) -> dict[str, Profile]:
        """The uniform profile and the knapsack on layer errors, both without drops, where they fit."""
        found: dict[str, Profile] = {}
        with suppress(BudgetError):
            found["uniform"] = self.space.uniform()
        if alone := drop_then_quantize(self.space, self._weights.layer_errors, ()):
            found["dp"] = alone
        return found

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """The references, and the best of random profiles."""
        space, tokens, count = self.space, search.tokens_per_stage[-1], search.start_candidates
        made: dict[str, Callable[[], Strategy]] = {
            name: lambda profile=profile: OneBatch([profile], tokens=tokens)  # type: ignore[misc]
            for name, profile in self.references.items()
        }
        return made | {"best-of": lambda: BestOf(space, rng, count=count, tokens=tokens)}

    def slots(self, load: Load) -> Slots:
        """One for each weight; the first of a part in each block also drops the part there, and keeps it."""
        switches: dict[str, Switch] = {name: _nothing for own in self.members.values() for name in own}
        for part, blocks in part_switches(self._drop.model, self._parts).items():
            for block, own in blocks.items():
                first = next(name for name in self.members[part] if self._blocks[name] == block)
                switches[first] = _switched(own)
        return weight_slots(self._drop.model, self._map, load, switches)

    def _depth(self, profile: Profile) -> Profile:
        """The same as a profile of depth: which parts are dropped."""
        levels = dict(profile.items())
        gone = {part for part, members in self.members.items() if levels[members[0]] == DROP}
        return Profile.of({name: DROP if name in gone else KEEP for name in self._drop.names})

    def dropped(self, profile: Profile) -> tuple[SubLayer, ...]:
        """Those of the parts whose weights are dropped."""
        return self._drop.dropped(self._depth(profile))

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """The blocks that are dropped whole."""
        return self._drop.left_out(self._depth(profile))

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Average bits over all weights, those dropped counted as 0, and what is dropped."""
        found = self._weights.sizes(profile)
        own = self._drop.sizes(None if profile is None else self._depth(profile))
        if profile is not None:
            levels = dict(profile.items())
            gone = sum(linear.view.size for linear in self._map.linears if levels[linear.name] == DROP)
            others = (
                self._drop.sizes(None)["parameters"] - own["parameters"] - gone
            )  # norms and biases of dropped parts
            found["bytes"] -= math.ceil(2 * others)
        return {
            **found,
            **{name: own[name] for name in ("dropped_attn", "dropped_mlp", "parameters")},
            "bytes": found["bytes"],
        }

    def stored(self) -> dict[str, dict[str, Stored]]:
        """The database's entries, and nothing for what is dropped."""
        inside = {name for own in self.members.values() for name in own}
        return {
            name: ({DROP: Stored(0, 0)} if name in inside else {}) | own for name, own in self._weights.stored().items()
        }

    def tensors(self, profile: Profile, database: Database | None) -> Tensors:
        """The chosen levels, and zeros for what writes a dropped sub-layer's output in blocks that stay."""
        return {**self._weights.tensors(profile, database), **self._drop.tensors(self._depth(profile), None)}

    def learns(self, profile: Profile) -> dict[str, str]:
        """Weights that are neither left dense nor dropped."""
        return {name: level for name, level in self._weights.learns(profile).items() if level != DROP}


def _nothing(gone: bool) -> None:
    """What a weight does about its part where another one switches it."""


def _switched(own: Sequence[Bypassed]) -> Callable[[bool], None]:
    def switch(gone: bool) -> None:
        for one in own:
            (one.drop if gone else one.keep)()

    return switch
