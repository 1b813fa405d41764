"""What depth pruning may drop of a model: sub-layers, or whole blocks where those are no sum of sub-layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from evopress.errors import UnsupportedModel, first_line
from evopress.models.bypass import dropped
from evopress.models.describe import ModelMap
from evopress.models.dissect import WRONG_SHAPE, find_sublayers, inside
from evopress.models.probe import answer, close, probe_ids
from evopress.models.removable import why_not_shorten
from evopress.models.runner import Runner
from evopress.models.sublayers import Granularity, SubLayer
from evopress.models.trace import trace_cached


def find_droppable(
    model: Any, model_map: ModelMap, granularity: Granularity, note: Callable[[str], None]
) -> tuple[SubLayer, ...]:
    """The sub-layers of a model; for larger units whole blocks, if sub-layers cannot be told apart or if a checkpoint
    can lack the ones but not the others (a block may scale what its sub-layers leave).

    UnsupportedModel when nothing can be dropped. `note` is told when blocks take the place of sub-layers.
    """
    if granularity == "sublayer":
        return find_sublayers(model, model_map)
    try:
        found = find_sublayers(model, model_map)
    except UnsupportedModel as error:
        note(f"blocks are dropped as they are, because {error}")
        return find_blocks(model, model_map)
    if why_not_shorten(model, model_map, found) is not None:
        with suppress(UnsupportedModel):
            blocks = find_blocks(model, model_map)
            if any(why_not_shorten(model, model_map, blocks, first) is None for first in (0, 1)):
                return blocks
    return found


@torch.no_grad()
def find_blocks(model: Any, model_map: ModelMap) -> tuple[SubLayer, ...]:
    """Every block that text runs as one sub-layer of the kind `block`: without it, its input is its output.

    UnsupportedModel when the model without all of them is not its two ends.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama", blocks=2)
    >>> [(block.name, block.parameters) for block in find_blocks(model, describe(model))]
    [('model.layers.0.block', 20832), ('model.layers.1.block', 20832)]
    """
    ids = probe_ids(model)
    trace = trace_cached(model, ids)
    found = []
    for index, block in enumerate(model.get_submodule(model_map.blocks)):
        if index in model_map.idle:
            continue
        path = f"{model_map.blocks}.{index}"
        caches = [at for name, at in trace.cache_writes.items() if inside(name, [path])]
        width = model.get_input_embeddings().weight.shape[1]
        parameters = list(block.parameters())
        count, size = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)
        name, cache, outputs = f"{path}.block", caches[0] if caches else None, trace.outputs.get(path)
        found.append(SubLayer(name, index, "block", path, (), width, outputs, cache, count, size))
    runner = Runner(model, model_map)
    hidden, contexts = runner.begin(ids)
    expected = runner.logits(runner.finish(hidden, contexts))
    with dropped(model, found):
        try:
            alone = answer(model, ids).logits
        except WRONG_SHAPE as error:
            raise UnsupportedModel(
                f"{type(model).__name__} reads something of a dropped block: {first_line(error)}"
            ) from error
    if not close(expected, alone.float(), model.dtype):
        raise UnsupportedModel(f"{type(model).__name__} without any block is not its embedding and its head")
    return tuple(found)
