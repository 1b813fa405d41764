"""Leave out whole blocks: a model with fewer of them, the remaining renumbered, that computes what bypassing computes.

What a configuration says of single blocks is found by structure: every list in it as long as there are blocks, and
lists of blocks' numbers. So is what other tensors hold for each block (embeddings of a token for every block): that is
cut. The new model is built by transformers from the new configuration and shares the weights of the old one, so the
cost is that of building modules. Whether the new model computes the same is for `removable` to find out.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from evopress.errors import UnsupportedModel, last_line
from evopress.models.describe import ModelMap
from evopress.models.experts import split_experts, whole_state
from evopress.models.load import silence

_NO_LAYERS = ("_id", "_ids", "architectures")
"""Ends of names of lists that are never about blocks, whatever their length."""

_COUNTS = ("decoder_layers", "num_blocks", "num_hidden_layers")
"""Names of the number of blocks, the one that decides first; others lead there through a configuration's own map."""

_CYCLES = "block_types"
"""A list that a class repeats until there is an entry for each block."""

_ERRORS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, StrictDataclassError)


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
    whole = whole_state(model)
    names = new_names(whole, model_map, blocks)
    state = {names[name]: tensor for name, tensor in whole.items() if name in names}
    for name, dim in cut_along(model, model_map).items() if blocks else ():
        state[name] = without_blocks(state[name], dim, model_map.n_blocks, blocks)
    try:
        config = shortened_config(model.config, model_map, blocks)
        with silence():
            made, report = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=model.dtype, output_loading_info=True
            )
    except _ERRORS as error:
        raise UnsupportedModel(
            f"{kind.__name__} cannot be built with {_left(model_map, blocks)}: {last_line(error)}"
        ) from error
    odd = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if odd:
        raise UnsupportedModel(f"{kind.__name__} with {_left(model_map, blocks)} has other weights, such as {odd[0]}")
    made.generation_config = copy.deepcopy(model.generation_config)
    return split_experts(made.eval().to(model.device))


def shortened_config(config: Any, model_map: ModelMap, blocks: Collection[int]) -> Any:
    """A copy of a configuration without these blocks: their number, and every list with one entry for each block.

    UnsupportedModel when it does not say how many blocks there are under the name that all of transformers knows, or
    when its class does not take what is left.
    """
    found = copy.deepcopy(config)
    text = found.get_text_config()
    count, kept = model_map.n_blocks, kept_blocks(model_map, blocks)
    names = [name for name in _COUNTS if getattr(text, name, None) == count]
    if not names:
        raise UnsupportedModel(f"the configuration of {config.model_type} does not say that there are {count} blocks")
    changed = {name: _of_blocks(name, value, count, kept) for name, value in vars(text).items()}
    changed = {name: value for name, value in changed.items() if value is not vars(text)[name]}
    for name, value in changed.items():
        setattr(text, name, value)
    setattr(text, names[0], len(kept))
    if single := config.get_text_config().to_dict().get("per_layer_config"):  # settings of single blocks, kept apart
        text.per_layer_config = _of_blocks("per_layer_config", single, count, kept)
    first = getattr(text, "max_window_layers", None)  # the number of the first block with a sliding window
    if first is not None and first <= count:
        text.max_window_layers = sum(block < first for block in kept)
    try:
        getattr(text, "validate", lambda: None)()
        with silence():
            again = type(text).from_dict(text.to_dict())
    except _ERRORS as error:
        raise UnsupportedModel(
            f"a configuration of {config.model_type} cannot have blocks {kept} alone: {last_line(error)}"
        ) from error
    for name, value in (changed | {names[0]: len(kept)}).items():
        if _plain(made := getattr(again, name, value)) != _plain(value):
            raise UnsupportedModel(
                f"a configuration of {config.model_type} cannot have blocks {kept} alone: it makes {made} of {value}, "
                f"its {name}"
            )
    return found


def _of_blocks(name: str, value: Any, count: int, kept: Sequence[int]) -> Any:
    """What is left of a setting that has entries, or numbers, of blocks; any other as it is."""
    numbered = isinstance(value, dict) and {str(key) for key in value} <= {str(block) for block in range(count)}
    if numbered and value and "layer" in name:
        return {type(key)(kept.index(int(key))): own for key, own in value.items() if int(key) in kept}
    if not isinstance(value, list | tuple) or not value or name.endswith(_NO_LAYERS):
        return value
    entries = [value[block % len(value)] for block in range(count)] if name.endswith(_CYCLES) else value
    if len(entries) == count:
        return type(value)(entries[block] for block in kept)
    if "layer" not in name or not all(type(one) is int for one in value) or list(value) != sorted({*value}):
        return value
    moved = {block: kept.index(block) for block in kept} | {
        one: one - count + len(kept) for one in value if one >= count
    }
    return type(value)(moved[one] for one in value if one in moved)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def cut_along(model: Any, model_map: ModelMap) -> dict[str, int]:
    """Name -> dimension of the tensors outside the blocks that have a part for each block in it, side by side.

    Found by building the class without one block, on the meta device. Empty where that cannot be built.
    """
    count, found = model_map.n_blocks, {}
    state = next((state for block in (0, 1) if (state := _state_without(model, model_map, block))), {})
    for name, tensor in model.state_dict().items():
        if name.startswith(f"{model_map.blocks}.") or name not in state:
            continue
        pairs = list(enumerate(zip(tensor.shape, state[name].shape, strict=False)))
        odd = [(dim, old, new) for dim, (old, new) in pairs if old != new]
        if len(odd) == 1 and odd[0][1] * (count - 1) == odd[0][2] * count:
            found[name] = odd[0][0]
    return found


def _state_without(model: Any, model_map: ModelMap, block: int) -> dict[str, Tensor]:
    """The state, on the meta device, of the class without one block; empty where that cannot be built."""
    try:
        config = shortened_config(model.config, model_map, [block])
        with silence(), torch.device("meta"):
            state: dict[str, Tensor] = type(model)(config).state_dict()
    except (*_ERRORS, UnsupportedModel):
        return {}
    return state


def without_blocks(tensor: Tensor, dim: int, count: int, blocks: Collection[int]) -> Tensor:
    """What is left of `count` equal parts of a tensor along `dim` without those of `blocks`.

    >>> without_blocks(torch.arange(6), 0, 3, [1])
    tensor([0, 1, 4, 5])
    """
    kept = torch.tensor([block for block in range(count) if block not in blocks], device=tensor.device)
    parts = tensor.reshape(*tensor.shape[:dim], count, -1, *tensor.shape[dim + 1 :])
    return parts.index_select(dim, kept).flatten(dim, dim + 1)


def new_names(
    names: Collection[str] | Mapping[str, Any], model_map: ModelMap, blocks: Collection[int]
) -> dict[str, str]:
    """Name of a parameter or module -> its name once these blocks are left out; what lies in them has none."""
    numbers = {str(old): str(new) for new, old in enumerate(kept_blocks(model_map, blocks))}
    prefix, found = f"{model_map.blocks}.", {}
    for name in names:
        if not name.startswith(prefix):
            found[name] = name
            continue
        number, dot, rest = name.removeprefix(prefix).partition(".")
        if number in numbers:
            found[name] = f"{prefix}{numbers[number]}{dot}{rest}"
    return found


def kept_blocks(model_map: ModelMap, blocks: Collection[int]) -> list[int]:
    """The numbers of the blocks that stay."""
    return [block for block in range(model_map.n_blocks) if block not in blocks]


def _left(model_map: ModelMap, blocks: Collection[int]) -> str:
    return f"{len(kept_blocks(model_map, blocks))} of its {model_map.n_blocks} blocks"
