"""Switch sub-layers off and on in a live model, by putting other modules in their place.

A dropped sub-layer adds exactly zero to the residual stream and is not computed: none of its linears, norms or
attention products runs. What remains is one addition of zeros. No `forward` is patched; what is put back is the very
module that was taken out. While a sub-layer is dropped its parameters are not the model's: `parameters()`,
`state_dict()` and `to()` do not see them.

A dropped attention still tells the key-value cache that tokens passed, because positions and masks of all other blocks
are derived from the lengths in it; it stores one number a token for keys and one for values. A cache belongs to the
choice that it was filled with: do not continue with it after a switch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from evopress.core.profile import DROP, KEEP
from evopress.errors import ProfileError
from evopress.models.sublayers import Granularity, SubLayer, group_sublayers


class _Instead(nn.Module, ABC):
    """In the place of what writes to the residual stream: answers to the first tensor it is called with, (..., any).

    The answer has the form that the own module's has, and a cache counts its tokens.
    """

    def __init__(self, sublayer: SubLayer) -> None:
        super().__init__()
        self.outputs, self.cache_index = sublayer.outputs, sublayer.cache_index

    @abstractmethod
    def answer(self, hidden: Tensor) -> Tensor:
        """What goes on."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        hidden = next(value for value in values if isinstance(value, Tensor))
        if self.cache_index is not None:
            for cache in values:
                if isinstance(cache, Cache):
                    _count_tokens(cache, hidden, self.cache_index)
        answer = self.answer(hidden)
        return answer if self.outputs is None else (answer, *[None] * (self.outputs - 1))


class Bypass(_Instead):
    """In the place of a sub-layer's writer: zeros (..., width).

    They are new each time, because some blocks add to a sub-layer's output in place.
    """

    def __init__(self, sublayer: SubLayer) -> None:
        super().__init__(sublayer)
        self.width = sublayer.width

    def answer(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class SkippedBlock(_Instead):
    """In the place of a whole block: its input is its output. Models may ask it for plain attributes of the block."""

    def __init__(self, own: nn.Module, sublayer: SubLayer) -> None:
        super().__init__(sublayer)
        self._own = (own,)  # no child: its parameters are not the model's while it is skipped

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(self.__dict__["_own"][0], name)
            if isinstance(found, nn.Module | Tensor):
                raise
            return found

    def answer(self, hidden: Tensor) -> Tensor:
        return hidden


class PassThrough(nn.Module):
    """In the place of a servant: hands on what it is given. What it gives is zero already, or read by nobody."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


class Poison(PassThrough):
    """NaN in place of what a module would hand on, `width` numbers a token: whatever reads it becomes NaN too."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor) -> Tensor:
        width = hidden.shape[-1] if self.width is None else self.width
        return hidden.new_full((*hidden.shape[:-1], width), torch.nan)


class Switch:
    """One sub-layer of a model, that can be dropped and kept again. Make it while the sub-layer is kept.

    >>> from evopress.models import describe, find_sublayers
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> attention, mlp, *_ = find_sublayers(model, describe(model))
    >>> switch = Switch(model, mlp)
    >>> switch.drop()
    >>> model.model.layers[0].mlp
    Bypass()
    >>> switch.keep()
    >>> model.model.layers[0].mlp.down_proj.out_features
    48
    """

    def __init__(self, model: nn.Module, sublayer: SubLayer) -> None:
        self.sublayer = sublayer
        self._places = [_Place(model, name, instead) for name, instead in _substitutes(model, sublayer).items()]

    def drop(self) -> None:
        """Take the sub-layer out; nothing happens when it is out."""
        for place in self._places:
            place.put(place.instead)

    def keep(self) -> None:
        """Put the sub-layer's own modules back; nothing happens when they are in."""
        for place in self._places:
            place.put(place.own)


class BypassSlot:
    """What one unit switches in one block. `level` is the level it has now; None means that nothing was applied."""

    def __init__(self, name: str, switches: Sequence[Switch]) -> None:
        self.name, self._switches = name, switches
        self.level: str | None = None

    afterwards = None

    def apply(self, level: str | None) -> None:
        """`drop` drops, `keep` and None keep; ProfileError for any other level."""
        if level not in (DROP, KEEP, None):
            raise ProfileError(f"unit {self.name}: unknown level {level!r}, it has {DROP}, {KEEP}")
        for switch in self._switches:
            (switch.drop if level == DROP else switch.keep)()
        self.level = level


def bypass_slots(
    model: nn.Module, sublayers: Sequence[SubLayer], granularity: Granularity = "sublayer", n_blocks: int = 0
) -> list[list[BypassSlot]]:
    """For each block the slots of the units in it, then none for head and embedding.

    A pair has a slot of the same name in each of its two blocks. `n_blocks` counts blocks without units,
    too; by default the last has one.
    """
    blocks = max(n_blocks, *(1 + sublayer.block for sublayer in sublayers))
    slots: list[list[BypassSlot]] = [[] for _ in range(blocks + 2)]
    for name, group in group_sublayers(sublayers, granularity).items():
        for block in dict.fromkeys(sublayer.block for sublayer in group):
            switches = [Switch(model, sublayer) for sublayer in group if sublayer.block == block]
            slots[block].append(BypassSlot(name, switches))
    return slots


def part_switches(model: nn.Module, parts: Mapping[str, Sequence[SubLayer]]) -> dict[str, dict[int, list[Switch]]]:
    """Part -> block -> the switches of its sub-layers there. Make them while the model is whole."""
    return {
        name: {
            block: [Switch(model, sublayer) for sublayer in group if sublayer.block == block]
            for block in dict.fromkeys(sublayer.block for sublayer in group)
        }
        for name, group in parts.items()
    }


@contextmanager
def dropped(model: nn.Module, sublayers: Iterable[SubLayer]) -> Iterator[None]:
    """A model without some of its sub-layers, as long as the context lasts."""
    with ExitStack() as stack:
        for sublayer in sublayers:
            stack.enter_context(swapped(model, _substitutes(model, sublayer)))
        yield


@contextmanager
def swapped(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """A model with other modules under these names, as long as the context lasts."""
    places = [_Place(model, name, module) for name, module in modules.items()]
    try:
        for place in places:
            place.put(place.instead)
        yield
    finally:
        for place in places:
            place.put(place.own)


@contextmanager
def silenced(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A sub-layer that is computed but contributes zero, because these parameters of it are zero."""
    own = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = torch.zeros_like(parameter.data)
        yield
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            parameter.data = data


def _substitutes(model: nn.Module, sublayer: SubLayer) -> dict[str, nn.Module]:
    if sublayer.kind == "block":
        return {sublayer.writer: SkippedBlock(model.get_submodule(sublayer.writer), sublayer)}
    return {sublayer.writer: Bypass(sublayer), **{name: PassThrough() for name in sublayer.servants}}


class _Place:
    """Where a module hangs in the model, the module itself and its substitute."""

    def __init__(self, model: nn.Module, name: str, instead: nn.Module) -> None:
        parent, _, self._child = name.rpartition(".")
        self._parent = model.get_submodule(parent)
        self.own, self.instead = model.get_submodule(name), instead.train(model.training)
        if isinstance(self.own, Bypass | PassThrough | SkippedBlock):
            raise ValueError(f"{name} is dropped already; make switches while all sub-layers are kept")

    def put(self, module: nn.Module) -> None:
        setattr(self._parent, self._child, module)


def _count_tokens(cache: Cache, hidden: Tensor, index: int) -> None:
    """Add the tokens of hidden (batch, length, any) to one layer of the cache.

    Keys and values are one head of one number: a cache counts a layer whose tensors are empty as one without tokens.
    """
    batch, length = hidden.shape[:2]
    one = hidden.new_ones(1).expand(batch, 1, length, 1)
    cache.update(one, one, index)
