"""The two ends of a model, token embedding and head, as units: for those who want them compressed like the linears.

They are large (a fifth of SmolLM2, half of a small Gemma) and lie outside the blocks, so they are units only when asked
for. Where the head is the embedding's own weight there is one unit, and its level acts at both ends.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from evopress.errors import UnsupportedModel
from evopress.models.describe import Linear, ModelMap, WeightView


def with_ends(model: Any, map: ModelMap) -> ModelMap:
    """The map with the embedding as unit of block -1 and the head, unless it is the same weight, of block `n_blocks`.

    Both are matrices (vocabulary, width). UnsupportedModel when one of them is no 2-D weight.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> mapped = with_ends(model, describe(model))
    >>> [(linear.name, linear.block) for linear in (mapped.linears[0], mapped.linears[-1])]
    [('model.embed_tokens', -1), ('lm_head', 3)]
    """
    embedding = _unit(model, model.get_input_embeddings(), -1)
    head = _unit(model, model.get_submodule(map.head), map.n_blocks)
    own = () if model.get_parameter(embedding.view.parameter) is _weight(model, map) else (head,)
    return replace(map, linears=(embedding, *map.linears, *own))


def head_unit(model: Any, map: ModelMap) -> Linear | None:
    """The unit whose weight the head multiplies with: its own or the embedding's; None when the ends are no units."""
    ends = (linear for linear in map.linears if not 0 <= linear.block < map.n_blocks)
    return next((linear for linear in ends if model.get_parameter(linear.view.parameter) is _weight(model, map)), None)


def _weight(model: Any, map: ModelMap) -> Any:
    return model.get_submodule(map.head).weight


def _unit(model: nn.Module, module: nn.Module | None, block: int) -> Linear:
    for name, candidate in model.named_modules():
        if candidate is module:
            matrix = getattr(candidate, "weight", None)
            if matrix is None or matrix.ndim != 2:
                break
            view = WeightView(f"{name}.weight", None, False, tuple(matrix.shape))
            return Linear(name, block, name.rpartition(".")[2], view, name)
    raise UnsupportedModel(
        f"the {'embedding' if block < 0 else 'head'} of {type(model).__name__} is no module with a 2-D weight; "
        "leave embeddings uncompressed"
    )
