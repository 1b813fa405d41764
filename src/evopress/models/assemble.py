"""Putting a profile into a live model: each unit has a slot that takes its levels, and gives the dense one back.

A weight's slot moves a pointer, and copies only where a weight is a part of a parameter; where the tensors come from
(memory, a packed file) is the loader's matter. The slots of sub-layers are in `evopress.models.bypass`.
Blocks are assembled one at a time because the evaluator and the builder run one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import nn

from evopress.core.profile import DENSE, DROP, Profile
from evopress.errors import ProfileError
from evopress.models.describe import ModelMap
from evopress.models.ends import head_unit

Choice = tuple[str | None, ...]
"""One level name for each unit of a place, in the model's order; None is the dense weight."""

Load = Callable[[str, str, torch.dtype], torch.Tensor]
"""(unit, level, dtype) -> dense tensor in the parameter's layout."""

Switch = Callable[[bool], None]
"""Told, whenever a weight is given a level, whether the part that it lies in is dropped."""

Tensors = Mapping[str, Callable[[torch.dtype], torch.Tensor]]
"""Parameter name -> what makes its compressed tensor in a dtype: how a checkpoint differs from the dense model."""


def no_levels(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
    """The `Load` of applications whose levels are no tensors; ProfileError when called."""
    raise ProfileError(f"unit {unit}: level {level!r} is no tensor; this run has no database")


class Slot(Protocol):
    """Where the level of a unit, or the part of it that lies in one block, is put into the model."""

    name: str
    level: str | None

    def apply(self, level: str | None) -> None:
        """Give the unit this level; None is the dense model's."""

    @property
    def afterwards(self) -> Callable[[], None] | None:
        """What is to be done once when all units of a place have their levels, for all slots that name the same."""


Slots = Sequence[Sequence[Slot]]
"""For each block the slots of the units in it, in the model's order; then those at HEAD, then those at EMBEDDING."""

HEAD, EMBEDDING = -2, -1
"""The places beside the blocks. A weight that is both has one slot, which is at both places."""


class WeightSlot:
    """A weight's parameter, its dense tensor and the level it has now. `load` is called when a level is applied.

    A whole parameter is pointed at a level's tensor, also where it is 3-D and holds all experts at once. One matrix of
    a 3-D parameter, that at `index`, has no pointer: it is overwritten, and its dense numbers are kept as a copy.
    A weight that can be dropped has a `switch`.
    """

    def __init__(
        self,
        name: str,
        parameter: nn.Parameter,
        load: Load,
        index: int | None = None,
        switch: Switch | None = None,
    ) -> None:
        self.name, self.parameter, self._load, self._index, self._switch = name, parameter, load, index, switch
        self.dense = parameter.data if index is None else parameter.data[index].clone()
        self.level: str | None = None

    afterwards = None

    def tensor(self, level: str | None) -> torch.Tensor:
        """The tensor of this level, in the parameter's layout and dtype."""
        return self.dense if level in (None, DENSE) else self._load(self.name, level, self.dense.dtype)

    def apply(self, level: str | None) -> None:
        """Give the parameter the tensor of this level; one that is dropped keeps what it has, and nothing reads it."""
        if self._switch is not None:
            self._switch(level == DROP)
        if self._switch is not None and level == DROP:
            pass
        elif self._index is None:
            self.parameter.data = self.tensor(level)
        else:
            self.parameter.data[self._index].copy_(self.tensor(level))
        self.level = level


def weight_slots(
    model: nn.Module, model_map: ModelMap, load: Load, switches: Mapping[str, Switch] | None = None
) -> Slots:
    """A slot for each linear of the map, in every block that multiplies with its weight.

    Those in `switches`, by name, can have the level `drop`.
    """
    slots: list[list[WeightSlot]] = [[] for _ in range(model_map.n_blocks + 2)]
    own: dict[tuple[str, int | None], WeightSlot] = {}
    head = head_unit(model, model_map)
    for linear in model_map.linears:
        parameter, switch = model.get_parameter(linear.view.parameter), (switches or {}).get(linear.name)
        slot = WeightSlot(linear.name, parameter, load, linear.view.index, switch)
        slots[linear.block].append(slot)
        if linear == head and linear.block != model_map.n_blocks:
            slots[HEAD].append(slot)
        own[linear.view.parameter, linear.view.index] = slot
    for linear in model_map.again:
        slot = own[linear.view.parameter, linear.view.index]
        if slot not in slots[linear.block]:
            slots[linear.block].append(slot)
    return slots


class Assembly:
    """A model whose blocks can be given levels. As a context manager it restores the dense model on exit."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def choices(self, profile: Profile | None) -> list[Choice]:
        """The profile as one choice for each place; None is the dense model. ProfileError unless the units match."""
        if profile is None:
            return [tuple(None for _ in slots) for slots in self._slots]
        levels = dict(profile.items())
        names = {slot.name for slots in self._slots for slot in slots}
        if levels.keys() != names:
            odd = sorted(levels.keys() ^ names)[0]
            side = "unknown to the model" if odd in levels else "missing from the profile"
            raise ProfileError(f"unit {odd!r} is {side}; a profile names each of the model's {len(names)} units once")
        return [tuple(levels[slot.name] for slot in slots) for slots in self._slots]

    def names(self, place: int) -> tuple[str, ...]:
        """The units of a block, in the order of its choices."""
        return tuple(slot.name for slot in self._slots[place])

    def use(self, place: int, choice: Choice | None = None) -> None:
        """Give the units of a block, or those at HEAD or EMBEDDING, the levels of `choice` (None: the dense model's),
        touching only those that differ.
        """
        slots = self._slots[place]
        together: dict[Callable[[], None], None] = {}
        for slot, level in zip(slots, choice or (None,) * len(slots), strict=True):
            if slot.level != level:
                slot.apply(level)
                if slot.afterwards:
                    together[slot.afterwards] = None
        for do in together:
            do()

    def apply(self, profile: Profile | None) -> None:
        """Give the whole model a profile, for its own forward pass; None is the dense model."""
        for place, choice in enumerate(self.choices(profile)):
            self.use(place, choice)

    def tensor(self, unit: str, level: str) -> torch.Tensor:
        """The tensor of one level of a unit, in its parameter's layout and dtype; ProfileError for unknown units."""
        for slot in (slot for slots in self._slots for slot in slots):
            if slot.name == unit and isinstance(slot, WeightSlot):
                return slot.tensor(level)
        raise ProfileError(f"unit {unit!r} is no weight of the model; give one of its linear layers")

    def restore(self) -> None:
        """Make every unit dense again."""
        for place in range(len(self._slots)):
            self.use(place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
