"""The levels of one profile, made for the inputs that the profile itself gives to later blocks.

A database's levels are made once, for inputs at one level, and compared in profiles of all kinds. When one profile has
been found its levels can be made again, each for what the compressed blocks before it really hand on. Costs a build
with one level a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from evopress.core.profile import DENSE
from evopress.database.methods import Levels, Method, Pruning, Quantization
from evopress.levels import Inputs


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A `Method` that makes of `method`'s levels those of a profile: `levels` is unit -> level, DENSE among them."""

    method: Quantization | Pruning
    levels: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.method}, each for the inputs that the profile gives"

    @property
    def needs_text(self) -> bool:
        """As the method."""
        return self.method.needs_text

    @property
    def mismatch(self) -> float:
        """As the method."""
        return self.method.mismatch

    @property
    def propagate(self) -> str:
        """The profile itself."""
        return "profile"

    def seen(self, unit: str) -> str | None:
        """The unit's own level."""
        return None if self.levels[unit] == DENSE else self.levels[unit]

    def level_bits(self, name: str, shape: tuple[int, int]) -> dict[str, int]:
        """That of its level alone; none for a unit that stays dense."""
        level = self.levels[name]
        return {} if level == DENSE else {level: self.method.level_bits(name, shape)[level]}

    def compress(self, names: Sequence[str], weights: Sequence[torch.Tensor], inputs: Inputs | None) -> list[Levels]:
        """The units of each level together."""
        made: dict[str, Levels] = {name: {} for name in names}
        own = dict(zip(names, weights, strict=True))
        for level in dict.fromkeys(self.levels[name] for name in names if self.levels[name] != DENSE):
            members = [name for name in names if self.levels[name] == level]
            found = _only(self.method, level, members).compress(members, [own[name] for name in members], inputs)
            made |= dict(zip(members, found, strict=True))
        return [made[name] for name in names]


def _only(method: Quantization | Pruning, level: str, units: Sequence[str]) -> Method:
    """A method with one of its levels alone."""
    if isinstance(method, Quantization):
        return replace(method, grids={level: method.grids[level]})
    return replace(method, levels={unit: {level: method.levels[unit][level]} for unit in units})
