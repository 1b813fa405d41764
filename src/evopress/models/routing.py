"""A router and its experts without some of these: it chooses among those that stay, as a model of so few would.

The rows of dropped experts are cut out of what the router multiplies with and adds, so its own softmax, sigmoid or
top-k sees the others alone, and a checkpoint with the same rows cut computes the same bits. Costs a copy of the
router's few rows each time a layer's experts change; no number of an expert is moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evopress.core.profile import DROP, KEEP
from evopress.errors import ProfileError, UnsupportedModel
from evopress.models.describe import NOT_CALLED, ModelMap

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
"""What configurations call the number of a layer's experts."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A layer of experts: its path, its block, how many there are, and how many a token needs.

    `rows` maps each tensor of the router in the model's state to the dimension that has a place for each expert.
    """

    path: str
    block: int
    count: int
    chosen: int
    rows: Mapping[str, int]

    def expert(self, number: int) -> str:
        """The unit's name."""
        return f"{self.path}.{number}"


def find_routed(model: Any, model_map: ModelMap) -> tuple[Routed, ...]:
    """The layers of experts of a model that was run, in the order of blocks; UnsupportedModel where there is none, or
    where experts cannot be taken from their router.
    """
    layers = {linear.experts: linear.block for linear in model_map.linears if linear.experts}
    if not layers:
        raise UnsupportedModel(
            f"{type(model).__name__} has no experts to drop; use --granularity sublayer, block or pair"
        )
    routers = {left.parameter for left in model_map.left if left.why != NOT_CALLED}
    found = tuple(_routed(model, path, block, routers) for path, block in layers.items())
    counts = sorted({layer.count for layer in found})
    if len(counts) > 1 or not count_names(model.config, counts[0]):
        raise UnsupportedModel(
            f"layers have {', '.join(map(str, counts))} experts, which config.json cannot say of fewer: it needs one "
            f"number for all layers, under a name such as {COUNTS[0]}"
        )
    groups = getattr(model.config.get_text_config(), "n_group", None)
    if groups not in (None, 0, 1):
        raise UnsupportedModel(f"the router chooses among {groups} groups of experts, which dropping would deal anew")
    return found


def _routed(model: Any, path: str, block: int, routers: Collection[str]) -> Routed:
    experts, holder = model.get_submodule(path), path.rpartition(".")[0]
    count = len(experts.numbers)
    rows = {}
    for name, tensor in model.get_submodule(holder).state_dict(prefix=f"{holder}.").items():
        if name.startswith(f"{path}."):
            continue
        vector = max(tensor.shape, default=0) == tensor.numel() == count
        if vector or (name in routers and tensor.shape[0] == count):
            rows[name] = next(dim for dim, size in enumerate(tensor.shape) if size == count)
    if not any(name in routers for name in rows):
        raise UnsupportedModel(f"{path} has no router with a row for each of its {count} experts; none can be dropped")
    chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", None) or experts.choices
    return Routed(path, block, count, min(chosen, experts.choices), rows)


def count_names(config: Any, count: int) -> list[str]:
    """The names under which a configuration says that there are so many experts."""
    own = config.get_text_config()
    return [name for name in COUNTS if name in own.to_dict() and getattr(own, name) == count]


class ExpertSwitch:
    """One layer of experts in a live model: `cut` leaves it without those in `dropped`."""

    def __init__(self, model: nn.Module, layer: Routed) -> None:
        self.layer, self.dropped = layer, set[int]()
        self._experts: Any = model.get_submodule(layer.path)
        self._rows = [(*_owner(model, name), dim) for name, dim in layer.rows.items()]
        holder = model.get_submodule(layer.path.rpartition(".")[0])
        inside = {id(module) for module in self._experts.modules()}
        self._counts = [
            (module, name)
            for module in holder.modules()
            if id(module) not in inside
            for name in COUNTS
            if vars(module).get(name) == layer.count
        ]

    def cut(self) -> None:
        """Let the router choose among the others; ProfileError where a token needs more than there are."""
        kept = [number for number in range(self.layer.count) if number not in self.dropped]
        if len(kept) < self.layer.chosen:
            raise ProfileError(
                f"the profile keeps {len(kept)} of the {self.layer.count} experts of {self.layer.path}; "
                f"a token needs {self.layer.chosen}"
            )
        self._experts.kept = kept
        for owner, name, own, dim in self._rows:
            part = own if not self.dropped else own.index_select(dim, torch.tensor(kept, device=own.device))
            if name in owner._buffers:
                owner._buffers[name] = part
            else:
                owner._parameters[name].data = part
        for module, name in self._counts:
            setattr(module, name, len(kept))


def _owner(model: nn.Module, name: str) -> tuple[Any, str, Tensor]:
    """The module that has a tensor of the state, its name there and its numbers."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    tensor = module._buffers[own] if own in module._buffers else module._parameters[own]
    assert tensor is not None  # it is in the state
    return module, own, tensor.data


class ExpertSlot:
    """Implements `Slot`: one expert, kept or dropped, once its layer is cut."""

    def __init__(self, switch: ExpertSwitch, number: int) -> None:
        self.name, self._dropped, self._number = switch.layer.expert(number), switch.dropped, number
        self.level: str | None = None
        self.afterwards = switch.cut

    def apply(self, level: str | None) -> None:
        """Say whether it is to be dropped; ProfileError for another level."""
        if level not in (DROP, KEEP, None):
            raise ProfileError(f"unit {self.name}: unknown level {level!r}, it has {DROP}, {KEEP}")
        (self._dropped.add if level == DROP else self._dropped.discard)(self._number)
        self.level = level


def expert_slots(model: nn.Module, layers: Sequence[Routed], n_blocks: int) -> list[list[ExpertSlot]]:
    """For each block the slots of its experts, then none for head and embedding."""
    slots: list[list[ExpertSlot]] = [[] for _ in range(n_blocks + 2)]
    for layer in layers:
        switch = ExpertSwitch(model, layer)
        slots[layer.block] += [ExpertSlot(switch, number) for number in range(layer.count)]
    return slots


def sizes_of_experts(model: nn.Module, layers: Sequence[Routed]) -> Iterator[tuple[Routed, int]]:
    """Each layer with the numbers that one of its experts has, its router's among them."""
    for layer in layers:
        experts: Any = model.get_submodule(layer.path)
        own = sum(parameter.numel() for parameter in experts["0"].parameters())
        named = dict(model.named_parameters())  # what corrects scores is a buffer
        router = sum(named[name].numel() // layer.count for name in layer.rows if name in named)
        yield layer, own + router
