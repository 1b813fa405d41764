"""Depth pruning: units are sub-layers, blocks or pairs of blocks, levels are `drop` and `keep`. Needs no database."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING

import torch

from evopress.applications.application import Stored, Tensors
from evopress.assemble import Load, Slots
from evopress.depth import depth_units, format_drop_config, parse_drop_config, sublayer_levels, unit_levels
from evopress.errors import BudgetError, ConfigError, ProfileError, UnsupportedModel
from evopress.export.format import Format, require_size
from evopress.export.formats import find_format
from evopress.models import SubLayer, bypass_slots
from evopress.models.bypass import DROP, KEEP
from evopress.models.shorten import whole_blocks, why_not_shorten, why_not_without
from evopress.profile import DENSE_BITS, Level, Profile, Unit
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
from evopress.search.sensitivity import GAMMAS
from evopress.sections import DropSection
from evopress.space import SearchSpace, exchange_groups

if TYPE_CHECKING:
    from evopress.workspace import Workspace


_NO_SPANS = (BudgetError, ProfileError)
"""No whole blocks, or no run of blocks, meet the budget; or some are no units, because text does not run them."""


class Drop:
    """Implements `Application`."""

    method = None
    gammas = GAMMAS

    def __init__(self, workspace: Workspace, section: DropSection) -> None:
        self._workspace, self._section = workspace, section
        self._fitting: dict[tuple[int, ...], tuple[int, ...]] = {}  # dropped blocks -> those a checkpoint can lack
        if section.granularity != "sublayer":
            _ = self.removable  # refuses before anything is searched

    @property
    def sublayers(self) -> tuple[SubLayer, ...]:
        """Attention and MLP of each block."""
        return self._workspace.sublayers

    @cached_property
    def space(self) -> SearchSpace:
        """A `count` budget drops round(fraction x units), of each role where roles do not trade; others are a limit."""
        budget, section = self._workspace.config.budget, self._section
        if budget.counts == "size":
            return self._sized(int(Fraction(budget.target)))
        units = depth_units(self.sublayers, section.granularity, budget.counts, self._protected)  # type: ignore[arg-type]
        if budget.counts == "count":
            return count_space(units, budget.target, by_role=budget.exchange == "role")
        total = sum(unit.levels[-1].cost for unit in units)
        limit = math.floor((1 - Fraction(budget.target)) * total)
        return SearchSpace(units, limit, exchange_groups(units, budget.exchange))

    def _sized(self, size: int) -> SearchSpace:
        """Costs are bytes of the files, which some block has to stay in."""
        files = self._format.costs(self._workspace)
        units = [
            replace(unit, levels=tuple(Level(level.name, files.levels[unit.name][level.name]) for level in unit.levels))
            for unit in depth_units(self.sublayers, self._section.granularity, protected=self._protected)
        ]
        dearest = 0 if self._protected else max(unit.levels[-1].cost for unit in units)
        require_size(size, files.constant, [[level.cost for level in unit.levels] for unit in units], stays=dearest)
        groups = exchange_groups(units, self._workspace.config.budget.exchange)
        return SearchSpace(tuple(units), size - files.constant, groups)

    @property
    def _format(self) -> Format:
        return find_format(self._workspace.config.format, "depth")

    @property
    def _protected(self) -> tuple[str, ...]:
        """What the user protects, what the target needs, and a first block that no checkpoint can lack."""
        target = self._workspace.config.target
        alone = self._section.granularity == "sublayer" and target is not None and target.first_attention
        first = [sublayer.name for sublayer in self.sublayers if sublayer.kind == "attn"][:1]
        return self._section.protected + (tuple(first) if alone else ()) + self._needed

    @cached_property
    def _needed(self) -> tuple[str, ...]:
        """A sub-layer of each block without which the model's class cannot be built, where whole blocks are dropped.

        The last attention of a hybrid, or a first block that no checkpoint can lack. What they are is said once.
        """
        if self._section.granularity == "sublayer" or not self.removable:
            return ()
        found, why = {}, ""
        for sublayer in self.sublayers:
            if sublayer.block in found or (sublayer.block not in self.removable and not self._whole):
                continue
            if sublayer.block not in self.removable:
                found[sublayer.block] = sublayer.name
            elif reason := why_not_without(self._workspace.loaded.model, self._workspace.map, [sublayer.block]):
                found[sublayer.block], why = sublayer.name, reason
        if why:
            blocks = ", ".join(map(str, found))
            self._workspace.observer.note(f"blocks that stay: {blocks}, because {why}")
        return tuple(found.values())

    @property
    def references(self) -> dict[str, Profile]:
        """ShortGPT, the best of the scores that one pass over text gives; none where no whole blocks fit."""
        with suppress(*_NO_SPANS):
            return {"shortgpt": ShortGPT(self.space, self._workspace.influence.cosine, tokens=1).best}
        return {}

    @cached_property
    def starts(self) -> dict[str, Profile]:
        """The masks of all scores that one pass over text gives: ShortGPT, Weight Subcloning and sliding window."""
        influence, space, found = self._workspace.influence, self.space, self.references
        with suppress(*_NO_SPANS):
            found["weight-subcloning"] = WeightSubcloning(space, influence.change, tokens=1).best
            found["sliding-window"] = SlidingWindow(space, influence.cosine, tokens=1).best
        return found

    @property
    def start_tokens(self) -> int:
        """One pass over a part of the search text."""
        return self._workspace.influence_tokens

    @property
    def scored_start(self) -> Strategy | None:
        """Shortened Llama, on as few tokens as other starts."""
        tokens = self._workspace.config.search.start_tokens
        with suppress(*_NO_SPANS):
            return ShortenedLlama(self.space, self._workspace.map.n_blocks, tokens=tokens)
        return None

    def baselines(self, rng: Random, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """All that drop whole blocks by a score, greedy, and the best of random masks."""
        space, search = self.space, self._workspace.config.search
        tokens, blocks, first = search.tokens_per_stage[-1], self._workspace.map.n_blocks, search.tokens_per_stage[0]
        influence = self._workspace.influence
        made: dict[str, Callable[[], Strategy]] = {
            "shortgpt": lambda: ShortGPT(space, influence.cosine, tokens=tokens),
            "weight-subcloning": lambda: WeightSubcloning(space, influence.change, tokens=tokens),
            "sliding-window": lambda: SlidingWindow(space, influence.cosine, tokens=tokens),
            "shortened-llama": lambda: ShortenedLlama(space, blocks, tokens=tokens),
            "best-of": lambda: BestOf(space, rng, count=search.start_candidates, tokens=tokens),
            "greedy": lambda: Greedy(space, tokens=first),
        }
        return made | ({"brute-force": lambda: BruteForce(space, tokens=tokens)} if brute else {})

    @cached_property
    def removable(self) -> range:
        """The blocks that a checkpoint can lack: all, or all but the first, or none; then they stay and add zero.

        What cannot be left out is said once.
        """
        count = self._workspace.map.n_blocks
        reason = ""
        for first in (0, 1):
            why = why_not_shorten(self._workspace.loaded.model, self._workspace.map, self.sublayers, first)
            if why is None:
                return range(first, count)
            reason = reason if first else why
        if self._whole:
            raise UnsupportedModel(f"no checkpoint can lack blocks of this model: {reason}")
        self._workspace.observer.note(f"dropped blocks stay in the checkpoint and add zero, because {reason}")
        return range(0)

    @property
    def _whole(self) -> bool:
        """Whether units are blocks that cannot be made to add zero."""
        return any(sublayer.kind == "block" for sublayer in self.sublayers)

    def slots(self, load: Load) -> Slots:
        """One for each unit and block."""
        _ = self.removable  # found out while the model is whole
        workspace = self._workspace
        return bypass_slots(workspace.loaded.model, self.sublayers, self._section.granularity, workspace.map.n_blocks)

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """The blocks that are dropped whole."""
        names = [sublayer.name for sublayer in self._dropped(profile)]
        blocks = (
            tuple(block for block in whole_blocks(self.sublayers, names) if block in self.removable) if names else ()
        )
        if blocks not in self._fitting:
            self._fitting[blocks] = blocks
            if reason := why_not_without(self._workspace.loaded.model, self._workspace.map, blocks):
                if self._whole:
                    raise UnsupportedModel(reason)
                self._workspace.observer.note(f"dropped blocks stay in the checkpoint and add zero, because {reason}")
                self._fitting[blocks] = ()
        return self._fitting[blocks]

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """Dropped sub-layers, parameters that still count, and bytes of the checkpoint's weights; with a target, of its
        files.

        A sub-layer that is dropped without the other one of its block is zeros in most of them, and as large as ever.
        """
        gone = [] if profile is None else self._dropped(profile)
        blocks = () if profile is None else self.left_out(profile)
        model, whole = self._workspace.loaded.model, self._workspace.shapes.parameters
        prefixes = tuple(f"{self._workspace.map.blocks}.{block}." for block in blocks)
        left = sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes)) if prefixes else 0
        kinds = Counter(sublayer.kind for sublayer in gone)
        stored = None
        if profile is not None and self._workspace.config.target is not None:
            stored = self._format.predicted_bytes(self._workspace, profile)
        return {
            "dropped_attn": kinds["attn"],
            "dropped_mlp": kinds["mlp"],
            "parameters": whole - left - sum(sub.parameters for sub in gone if sub.block not in blocks),
            "bytes": model.dtype.itemsize * (whole - left) if stored is None else stored,
        }

    def stored(self) -> dict[str, dict[str, Stored]]:
        """What the target's files hold, or half precision where they keep what is dropped as zeros."""
        if self._workspace.config.target is not None:
            with suppress(ConfigError):
                levels = self._format.costs(self._workspace).levels
                return {unit: {name: Stored(8 * n, 8 * n) for name, n in own.items()} for unit, own in levels.items()}
        bits = {unit.name: DENSE_BITS * unit.size for unit in self.space.units}
        return {name: {DROP: Stored(0, 0), KEEP: Stored(kept, kept)} for name, kept in bits.items()}

    def tensors(self, profile: Profile) -> Tensors:
        """Zeros for what writes a dropped sub-layer's output, in blocks that stay: exact everywhere, but no faster."""
        model, blocks = self._workspace.loaded.model, self.left_out(profile)

        def zeros(name: str, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros_like(model.get_parameter(name), dtype=dtype)

        silenced = [sublayer for sublayer in self._dropped(profile) if sublayer.block not in blocks]
        return {name: partial(zeros, name) for sublayer in silenced for name in sublayer.silencers}

    def to_text(self, profile: Profile) -> str:
        """One line for each block: none, attn, mlp or attn+mlp, what is dropped there."""
        return format_drop_config(self._sublayer_levels(profile), self.sublayers)

    def from_text(self, text: str) -> Profile:
        """The inverse of `to_text`."""
        found = parse_drop_config(text, self.sublayers)
        return Profile.of(unit_levels(found, self.sublayers, self._section.granularity))

    def _sublayer_levels(self, profile: Profile) -> dict[str, str]:
        return sublayer_levels(dict(profile.items()), self.sublayers, self._section.granularity)

    def _dropped(self, profile: Profile) -> list[SubLayer]:
        levels = self._sublayer_levels(profile)
        return [sublayer for sublayer in self.sublayers if levels[sublayer.name] == DROP]


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
