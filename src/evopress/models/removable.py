"""Which blocks a model can do without: nothing is trusted, one is left out and the others are compared.

Each question costs that of building a shortened model, and two passes over a few tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evopress.errors import UnsupportedModel
from evopress.models.bypass import dropped
from evopress.models.describe import ModelMap
from evopress.models.probe import probe_ids, stock_logits
from evopress.models.shorten import kept_blocks, shortened, shortened_config
from evopress.models.sublayers import SubLayer


def whole_blocks(sublayers: Sequence[SubLayer], gone: Collection[str]) -> tuple[int, ...]:
    """The blocks of which all sub-layers are in `gone`, by name. The first block is never among them if all are:
    loaders want a model to have one.

    >>> from evopress.models import describe, find_sublayers
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> sublayers = find_sublayers(model, describe(model))
    >>> whole_blocks(sublayers, ["model.layers.0.mlp", "model.layers.1.attn", "model.layers.1.mlp"])
    (1,)
    """
    kept = {sublayer.block for sublayer in sublayers if sublayer.name not in gone}
    blocks = sorted({sublayer.block for sublayer in sublayers})
    return tuple(block for block in blocks if block not in kept and (kept or block != blocks[0]))


def why_not_without(model: Any, model_map: ModelMap, blocks: Collection[int]) -> str:
    """Why there is no configuration, or where blocks share weights no model, without these; empty where there is.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> why_not_without(model, describe(model), [1])
    ''
    """
    try:
        shortened_config(model.config, model_map, blocks)
        if blocks and model_map.again:
            shortened(model, model_map, blocks)
    except UnsupportedModel as error:
        return str(error)
    return ""


def why_not_shorten(model: Any, model_map: ModelMap, sublayers: Sequence[SubLayer], first: int = 0) -> str | None:
    """What stands against leaving blocks out of this model; None when nothing does.

    Leaves out block `first` and compares: every module of the others must be what it was but for its number, and the
    logits must be bit for bit those of the model that bypasses the block.
    """
    if model_map.n_blocks < 2 + first:
        return "it has one block" if model_map.n_blocks < 2 else "it has two blocks"
    try:
        short = shortened(model, model_map, [first])
    except UnsupportedModel as error:
        return str(error)
    ids = probe_ids(model)
    answer = stock_logits(short, ids)  # a first pass may settle how modules work, as it did in the other model
    before, after = model.get_submodule(model_map.blocks), short.get_submodule(model_map.blocks)
    for number, old in enumerate(kept_blocks(model_map, [first])):
        for name, module in after[number].named_modules():
            odd = _different(before[old].get_submodule(name), old, module, number)
            if odd:
                return f"its blocks depend on their number: {odd} of {model_map.blocks}.{old}.{name} would change"
    with dropped(model, [sublayer for sublayer in sublayers if sublayer.block == first]):
        expected = stock_logits(model, ids)
    return None if torch.equal(answer, expected) else "its blocks compute other numbers once renumbered"


def _different(old: nn.Module, old_number: int, new: nn.Module, new_number: int) -> str | None:
    """The first plain attribute of a module that is neither equal nor its block's number."""
    for name, value in vars(old).items():
        other = vars(new).get(name)
        if isinstance(other, Tensor) or not isinstance(value, str | bool | int | float | None):  # a state, among others
            continue
        if value != other and (value, other) != (old_number, new_number):
            return name
    return None
