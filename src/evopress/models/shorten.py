"""Leave out whole blocks: a model with fewer of them, the remaining renumbered, that computes what bypassing computes.

What a configuration says of single blocks is found by structure: every list in it as long as there are blocks. The new
model is built by transformers from the new configuration and shares the weights of the old one, so the cost is that of
building modules. Nothing is trusted: `why_not_shorten` compares the renumbered blocks with those that they were.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from evopress.errors import UnsupportedModel, last_line
from evopress.models.bypass import dropped
from evopress.models.describe import ModelMap
from evopress.models.load import silence
from evopress.models.probe import probe_ids, stock_logits
from evopress.models.sublayers import SubLayer

_NO_LAYERS = ("_id", "_ids", "architectures")
"""Ends of names of lists that are never about blocks, whatever their length."""


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


def shortened(model: Any, model_map: ModelMap, blocks: Collection[int]) -> Any:
    """A new model without these blocks, in evaluation mode, that shares the weights of the others with `model`.

    UnsupportedModel when its class cannot be built with fewer blocks.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("gemma2", blocks=5)
    >>> short = shortened(model, describe(model), [1, 2])
    >>> len(short.model.layers), short.config.layer_types
    (3, ['sliding_attention', 'full_attention', 'sliding_attention'])
    """
    kind = type(model)
    names = new_names(model.state_dict(), model_map, blocks)
    state = {names[name]: tensor for name, tensor in model.state_dict().items() if name in names}
    try:
        config = shortened_config(model.config, model_map, blocks)
        with silence():
            made, report = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=model.dtype, output_loading_info=True
            )
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, StrictDataclassError) as error:
        raise UnsupportedModel(
            f"{kind.__name__} cannot be built with {_left(model_map, blocks)}: {last_line(error)}"
        ) from error
    odd = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if odd:
        raise UnsupportedModel(f"{kind.__name__} with {_left(model_map, blocks)} has other weights, such as {odd[0]}")
    made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval().to(model.device)


def shortened_config(config: Any, model_map: ModelMap, blocks: Collection[int]) -> Any:
    """A copy of a configuration without these blocks: their number, and every list with one entry for each block.

    UnsupportedModel when it does not say how many blocks there are under the name that all of transformers knows, or
    when its class does not take what is left.
    """
    found = copy.deepcopy(config)
    text = found.get_text_config()
    count, kept = model_map.n_blocks, _kept(model_map, blocks)
    if getattr(text, "num_hidden_layers", None) != count:
        raise UnsupportedModel(f"the configuration of {config.model_type} does not say that there are {count} blocks")
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == count and not name.endswith(_NO_LAYERS):
            setattr(text, name, type(value)(value[block] for block in kept))
    text.num_hidden_layers = len(kept)
    first = getattr(text, "max_window_layers", None)  # the number of the first block with a sliding window
    if first is not None and first <= count:
        text.max_window_layers = sum(block < first for block in kept)
    try:
        getattr(text, "validate", lambda: None)()
    except (ValueError, StrictDataclassError) as error:
        raise UnsupportedModel(
            f"a configuration of {config.model_type} cannot have blocks {kept} alone: {last_line(error)}"
        ) from error
    return found


def new_names(
    names: Collection[str] | Mapping[str, Any], model_map: ModelMap, blocks: Collection[int]
) -> dict[str, str]:
    """Name of a parameter or module -> its name once these blocks are left out; what lies in them has none."""
    numbers = {str(old): str(new) for new, old in enumerate(_kept(model_map, blocks))}
    prefix, found = f"{model_map.blocks}.", {}
    for name in names:
        if not name.startswith(prefix):
            found[name] = name
            continue
        number, dot, rest = name.removeprefix(prefix).partition(".")
        if number in numbers:
            found[name] = f"{prefix}{numbers[number]}{dot}{rest}"
    return found


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
    before, after = model.get_submodule(model_map.blocks), short.get_submodule(model_map.blocks)
    for number, old in enumerate(_kept(model_map, [first])):
        for name, module in after[number].named_modules():
            odd = _different(before[old].get_submodule(name), old, module, number)
            if odd:
                return f"its blocks depend on their number: {odd} of {model_map.blocks}.{old}.{name} would change"
    ids = probe_ids(model)
    with dropped(model, [sublayer for sublayer in sublayers if sublayer.block == first]):
        expected = stock_logits(model, ids)
    return (
        None if torch.equal(stock_logits(short, ids), expected) else "its blocks compute other numbers once renumbered"
    )


def _different(old: nn.Module, old_number: int, new: nn.Module, new_number: int) -> str | None:
    """The first plain attribute of a module that is neither equal nor its block's number."""
    for name, value in vars(old).items():
        other = vars(new).get(name)
        numbered = (value, other) == (old_number, new_number)
        if isinstance(value, str | bool | int | float | None) and value != other and not numbered:
            return name
    return None


def _kept(model_map: ModelMap, blocks: Collection[int]) -> list[int]:
    return [block for block in range(model_map.n_blocks) if block not in blocks]


def _left(model_map: ModelMap, blocks: Collection[int]) -> str:
    return f"{len(_kept(model_map, blocks))} of its {model_map.n_blocks} blocks"
