"""Depth pruning: units are sub-layers, blocks or pairs of blocks, levels are `drop` and `keep`. Needs no database."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from random import Random
from typing import Any

import torch

from evopress.core.costs import FileCosts, require_size
from evopress.core.profile import KEEP, Level, Profile, Unit
from evopress.core.space import SearchSpace, exchange_groups
from evopress.database.store import Database
from evopress.errors import BudgetError, ConfigError, ProfileError
from evopress.families.family import Stored, stored_or_gone
from evopress.models import Influence, ModelMap, Removal, SubLayer, bypass_slots, group_sublayers
from evopress.models.assemble import Load, Slots, Tensors
from evopress.models.depth import (
    depth_units,
    dropped_sublayers,
    format_drop_config,
    parse_drop_config,
    sublayer_levels,
    unit_levels,
)
from evopress.search import (
    BestOf,
    BruteForce,
    Greedy,
    ShortenedLlama,
    ShortGPT,
    SlidingWindow,
    Strategy,
    WeightSubcloning,
)
from evopress.search.moves.depth import depth_moves
from evopress.search.starts.sensitivity import GAMMAS
from evopress.settings.sections import BudgetSection, DropSection, SearchSection


@dataclass(frozen=True)
class Measured:
    """The influence of blocks on the hidden states, measured when first asked for, and the tokens that takes."""

    influence: Callable[[], Influence]
    tokens: Callable[[], int]


@dataclass(frozen=True)
class Served:
    """What the target asks for: what its files cost, and whether the first attention cannot be dropped alone."""

    files: Callable[[], FileCosts]
    first_attention: bool


_NO_SPANS = (BudgetError, ProfileError)
"""No whole blocks, or no run of blocks, meet the budget; or some are no units, because text does not run them."""


class Drop:
    """Implements `Family`.

    `removal` says which blocks a checkpoint can lack; `served` is None without a target.
    """

    method = None
    gammas = GAMMAS
    moves = depth_moves()
    resizes = True

    def __init__(
        self,
        model: Any,
        model_map: ModelMap,
        section: DropSection,
        budget: BudgetSection,
        sublayers: tuple[SubLayer, ...],
        removal: Removal,
        measured: Measured,
        served: Served | None,
    ) -> None:
        self.model, self._map, self._section, self._budget = model, model_map, section, budget
        self.sublayers, self._removal, self._measured, self._served = sublayers, removal, measured, served
        assert section.granularity != "expert"  # another family's
        self._granularity = section.granularity
        if section.granularity != "sublayer":
            _ = removal.possible  # refuses before anything is searched

    @cached_property
    def space(self) -> SearchSpace:
        """A `count` budget drops round(fraction x units), of each role where roles do not trade; others are a limit."""
        budget = self._budget
        if budget.counts == "size":
            return self._sized(int(Fraction(budget.target)))
        units = depth_units(self.sublayers, self._granularity, budget.counts, self._protected)  # type: ignore[arg-type]
        if budget.counts == "count":
            return count_space(units, budget.target, by_role=budget.exchange == "role")
        total = sum(unit.levels[-1].cost for unit in units)
        limit = math.floor((1 - Fraction(budget.target)) * total)
        return SearchSpace(units, limit, exchange_groups(units, budget.exchange))

    def _sized(self, size: int) -> SearchSpace:
        """Costs are bytes of the files, which some block has to stay in."""
        assert self._served is not None  # a size is that of a target's files
        files = self._served.files()
        units = [
            replace(unit, levels=tuple(Level(level.name, files.levels[unit.name][level.name]) for level in unit.levels))
            for unit in depth_units(self.sublayers, self._granularity, protected=self._protected)
        ]
        dearest = 0 if self._protected else max(unit.levels[-1].cost for unit in units)
        require_size(size, files.constant, [[level.cost for level in unit.levels] for unit in units], stays=dearest)
        groups = exchange_groups(units, self._budget.exchange)
        return SearchSpace(tuple(units), size - files.constant, groups)

    @cached_property
    def parts(self) -> dict[str, tuple[SubLayer, ...]]:
        """The sub-layers of each unit that can be dropped, by its name."""
        units = depth_units(self.sublayers, self._granularity, protected=self._protected)
        groups = group_sublayers(self.sublayers, self._granularity)
        return {unit.name: groups[unit.name] for unit in units if len(unit.levels) > 1}

    @property
    def names(self) -> tuple[str, ...]:
        """The units, those that are protected too."""
        return tuple(group_sublayers(self.sublayers, self._granularity))

    @property
    def _protected(self) -> tuple[str, ...]:
        """What the user protects, what the target needs, and a first block that no checkpoint can lack."""
        served = self._served
        alone = self._granularity == "sublayer" and served is not None and served.first_attention
        first = [sublayer.name for sublayer in self.sublayers if sublayer.kind == "attn"][:1]
        return self._section.protected + (tuple(first) if alone else ()) + self._needed

    @cached_property
    def _needed(self) -> tuple[str, ...]:
        """A sub-layer of each block that no checkpoint can lack, where whole blocks are dropped."""
        return () if self._granularity == "sublayer" else self._removal.needed

    @property
    def references(self) -> dict[str, Profile]:
        """ShortGPT, the best of the scores that one pass over text gives; none where no whole blocks fit."""
        with suppress(*_NO_SPANS):
            return {"shortgpt": ShortGPT(self.space, self._measured.influence().cosine, tokens=1).best}
        return {}

    @cached_property
    def starts(self) -> dict[str, Profile]:
        """The masks of all scores that one pass over text gives: ShortGPT, Weight Subcloning and sliding window."""
        influence, space, found = self._measured.influence(), self.space, self.references
        with suppress(*_NO_SPANS):
            found["weight-subcloning"] = WeightSubcloning(space, influence.change, tokens=1).best
            found["sliding-window"] = SlidingWindow(space, influence.cosine, tokens=1).best
        return found

    @property
    def start_tokens(self) -> int:
        """One pass over a part of the search text."""
        return self._measured.tokens()

    def scored_start(self, tokens: int) -> Strategy | None:
        """Shortened Llama, on as few tokens as other starts."""
        with suppress(*_NO_SPANS):
            return ShortenedLlama(self.space, self._map.n_blocks, tokens=tokens)
        return None

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """All that drop whole blocks by a score, greedy, and the best of random masks."""
        space, blocks = self.space, self._map.n_blocks
        tokens, first = search.tokens_per_stage[-1], search.tokens_per_stage[0]
        influence = self._measured.influence()
        made: dict[str, Callable[[], Strategy]] = {
            "shortgpt": lambda: ShortGPT(space, influence.cosine, tokens=tokens),
            "weight-subcloning": lambda: WeightSubcloning(space, influence.change, tokens=tokens),
            "sliding-window": lambda: SlidingWindow(space, influence.cosine, tokens=tokens),
            "shortened-llama": lambda: ShortenedLlama(space, blocks, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=search.start_candidates, tokens=tokens),
            "greedy": lambda: Greedy(space, tokens=first),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    def slots(self, load: Load) -> Slots:
        """One for each unit and block."""
        _ = self._removal.possible  # found out while the model is whole
        return bypass_slots(self.model, self.sublayers, self._granularity, self._map.n_blocks)

    def dropped(self, profile: Profile) -> tuple[SubLayer, ...]:
        """Those of the units that are dropped."""
        return tuple(dropped_sublayers(profile, self.sublayers, self._granularity))

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """The blocks that are dropped whole."""
        return self._removal.blocks([sublayer.name for sublayer in self.dropped(profile)])

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Dropped sub-layers, parameters that still count, and bytes of a checkpoint's weights.

        A sub-layer that is dropped without the other one of its block is zeros in most of them, and as large as ever.
        """
        gone = () if profile is None else self.dropped(profile)
        blocks = () if profile is None else self.left_out(profile)
        whole = sum(parameter.numel() for parameter in self.model.parameters())
        prefixes = tuple(f"{self._map.blocks}.{block}." for block in blocks)
        named = self.model.named_parameters()
        left = sum(p.numel() for name, p in named if name.startswith(prefixes)) if prefixes else 0
        kinds = Counter(sublayer.kind for sublayer in gone)
        return {
            "dropped_attn": kinds["attn"],
            "dropped_mlp": kinds["mlp"],
            "parameters": whole - left - sum(sub.parameters for sub in gone if sub.block not in blocks),
            "bytes": self.model.dtype.itemsize * (whole - left),
        }

    def stored(self) -> dict[str, dict[str, Stored]]:
        """What the target's files hold, or half precision where they keep what is dropped as zeros."""
        if self._served is not None:
            with suppress(ConfigError):
                levels = self._served.files().levels
                return {unit: {name: Stored(8 * n, 8 * n) for name, n in own.items()} for unit, own in levels.items()}
        return stored_or_gone(self.space.units)

    def tensors(self, profile: Profile, database: Database | None) -> Tensors:
        """Zeros for what writes a dropped sub-layer's output, in blocks that stay: exact everywhere, but no faster.

        A `database` has what was healed of the rest.
        """
        model, blocks = self.model, self.left_out(profile)

        def zeros(name: str, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros_like(model.get_parameter(name), dtype=dtype)

        silenced = [sublayer for sublayer in self.dropped(profile) if sublayer.block not in blocks]
        healed = {} if database is None else database.manifest.units
        return {
            **{name: partial(zeros, name) for sublayer in silenced for name in sublayer.silencers},
            **{entry.view.parameter: partial(database.dense, name, KEEP) for name, entry in healed.items() if database},
        }

    def learns(self, profile: Profile) -> dict[str, str]:
        """All that stay."""
        gone = self.dropped(profile)
        modules = [module for sublayer in gone for module in (sublayer.writer, *sublayer.servants)]
        return {
            linear.name: KEEP
            for linear in self._map.linears
            if not any(linear.name == module or linear.name.startswith(f"{module}.") for module in modules)
        }

    def to_text(self, profile: Profile) -> str:
        """One line for each block: none, attn, mlp or attn+mlp, what is dropped there."""
        levels = sublayer_levels(dict(profile.items()), self.sublayers, self._granularity)
        return format_drop_config(levels, self.sublayers)

    def from_text(self, text: str) -> Profile:
        """The inverse of `to_text`."""
        found = parse_drop_config(text, self.sublayers)
        return Profile.of(unit_levels(found, self.sublayers, self._granularity))


def count_space(units: Sequence[Unit], fraction: str, *, by_role: bool) -> SearchSpace:
    """The profiles that drop round(fraction x n) of the n units of each role, or of all units where roles trade.

    BudgetError when that is none or all of them, or more than may be dropped.
    """
    groups = exchange_groups(units, "role" if by_role else "any")
    limits = []
    for group in groups:
        costs = sorted((units[i].levels[-1].cost for i in group), reverse=True)
        droppable = sum(len(units[i].levels) > 1 for i in group)
        k = _rounded(Fraction(fraction) * len(group))
        kind = f"{units[group[0]].role} unit" if by_role else "unit"
        what = f"{len(group)} {kind}s"
        if len(group) < 2:
            raise BudgetError(
                f"the model has 1 {kind}, and one has to stay: there is nothing to drop; use a deeper model"
            )
        if not 0 < k < len(group):
            raise BudgetError(
                f"a fraction of {fraction} drops {k} of {what}; give one that drops 1 to {len(group) - 1}, "
                f"such as {max(1, len(group) // 4) / len(group):.3g}"
            )
        if k > droppable:
            raise BudgetError(f"a fraction of {fraction} drops {k} of {what}, but only {droppable} are not protected")
        limits.append(sum(costs) - k * costs[0])
    return SearchSpace(tuple(units), sum(limits), groups, tuple(limits))


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves up: int(value) would drop a block too few."""
    return math.floor(value + Fraction(1, 2))
