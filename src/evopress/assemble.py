"""Putting a profile into a live model: parameters are pointed at the levels' tensors and back.

A switch moves a pointer and nothing else; where the tensors come from (memory, a packed file) is the loader's matter.
Blocks are assembled one at a time because the evaluator and the builder run one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import nn

from evopress.errors import ProfileError
from evopress.models.describe import ModelMap
from evopress.profile import Profile

Choice = tuple[str | None, ...]
"""One level name for each unit of a block, in the model's order; None is the dense weight."""

Load = Callable[[str, str, torch.dtype], torch.Tensor]
"""(unit, level, dtype) -> dense tensor in the parameter's layout."""


class Assembly:
    """A model whose blocks can be given levels. As a context manager it restores the dense weights on exit."""

    def __init__(self, model: nn.Module, model_map: ModelMap, load: Load) -> None:
        self._load = load
        self._slots: list[list[_Slot]] = [[] for _ in range(model_map.n_blocks)]
        for linear in model_map.linears:
            self._slots[linear.block].append(_Slot(linear.name, model.get_parameter(linear.view.parameter)))

    def choices(self, profile: Profile | None) -> list[Choice]:
        """The profile as one choice for each block; None is the dense model. ProfileError unless the units match."""
        if profile is None:
            return [tuple(None for _ in slots) for slots in self._slots]
        levels = dict(profile.items())
        names = {slot.name for slots in self._slots for slot in slots}
        if levels.keys() != names:
            odd = sorted(levels.keys() ^ names)[0]
            side = "unknown to the model" if odd in levels else "missing from the profile"
            raise ProfileError(f"unit {odd!r} is {side}; a profile names each of the model's {len(names)} units once")
        return [tuple(levels[slot.name] for slot in slots) for slots in self._slots]

    def use(self, block: int, choice: Choice) -> None:
        """Give the units of `block` the levels of `choice`, touching only those that differ."""
        for slot, level in zip(self._slots[block], choice, strict=True):
            if slot.level != level:
                parameter = slot.parameter
                parameter.data = slot.dense if level is None else self._load(slot.name, level, slot.dense.dtype)
                slot.level = level

    def tensor(self, unit: str, level: str) -> torch.Tensor:
        """What `use` points the unit's parameter at for a level; the parameter stays as it is."""
        slot = next(slot for slots in self._slots for slot in slots if slot.name == unit)
        return self._load(unit, level, slot.dense.dtype)

    def restore(self) -> None:
        """Give every unit its dense weight back."""
        for block, slots in enumerate(self._slots):
            self.use(block, tuple(None for _ in slots))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


class _Slot:
    """A unit's parameter, its dense tensor and the level it has now."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name, self.parameter, self.dense = name, parameter, parameter.data
        self.level: str | None = None
