"""Sub-layers: attention, MLP and the like of a block, as data, and how they are grouped into units of the search.

A sub-layer is what one addition puts onto the residual stream: a module that writes to it and the norms and other
modules that serve that one alone. Which modules these are is found by `find_sublayers`; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evopress.errors import ConfigError

Kind = Literal["attn", "mixer", "mlp", "extra", "block"]
"""`attn` and `mlp` are the words of the official code's drop configs. `attn` is what keeps something of earlier tokens:
attention, or a recurrence where there is no attention; a recurrence beside attention is `mixer`. `extra` is what is
added after the MLP. `block` is a whole block whose parts cannot be told apart.
"""

Granularity = Literal["sublayer", "block", "pair"]
"""What is dropped as one: an attention or an MLP, both of a block, or two blocks that follow each other."""


@dataclass(frozen=True, slots=True)
class SubLayer:
    """What one sub-layer of a block consists of. Module names are full paths.

    A `block` is its own writer: without it, its input is its output. It has no servants and no silencers.

    `name` is `BLOCKS.INDEX.KIND` in every architecture. `writer` is the module whose output goes to the residual
    stream: a tensor of `width` numbers a token, or a tuple of length `outputs` that begins with it. `servants` are
    modules beside it that serve nothing else: the norm before or after it; in OPT also the first linear. `cache_index`
    is the layer of the key-value cache that is written to, None where none is. `parameters` and `bytes` count all
    parameters of writer and servants, biases and norms included: what a checkpoint without the sub-layer lacks. A
    norm that both sub-layers of a block read belongs to neither. `silencers` are the parameters that make its
    contribution exactly zero when they are: those of its last linear, and biases behind it.
    """

    name: str
    block: int
    kind: Kind
    writer: str
    servants: tuple[str, ...]
    width: int
    outputs: int | None
    cache_index: int | None
    parameters: int
    bytes: int
    silencers: tuple[str, ...] = ()


def group_sublayers(sublayers: Sequence[SubLayer], granularity: Granularity) -> dict[str, tuple[SubLayer, ...]]:
    """Unit name -> the sub-layers that are dropped together, in the model's order.

    Names: `model.layers.4.attn` for a sub-layer, `model.layers.4.attn+mlp` for a block, `model.layers.4-5.attn+mlp` for
    a pair. Pairs start at even blocks; the last of an odd number of blocks stays alone. ConfigError for an unknown
    granularity.
    """
    if granularity not in get_args(Granularity):
        raise ConfigError(f"unknown granularity {granularity!r}; use {', '.join(get_args(Granularity))}")
    if granularity == "sublayer":
        return {sublayer.name: (sublayer,) for sublayer in sublayers}
    stride = 2 if granularity == "pair" else 1
    members: dict[int, list[SubLayer]] = {}
    for sublayer in sublayers:
        members.setdefault(sublayer.block // stride, []).append(sublayer)
    return {_shared_name(group): tuple(group) for group in members.values()}


def _shared_name(group: Sequence[SubLayer]) -> str:
    blocks = sorted({sublayer.block for sublayer in group})
    path = group[0].name.rsplit(".", 2)[0]
    kinds = {sublayer.kind for sublayer in group}
    words = [kind for kind in get_args(Kind) if kind in kinds]
    return f"{path}.{'-'.join(map(str, blocks))}.{'+'.join(words)}"
