"""What one pass over text says of experts: how often each is chosen, and how much of what it answers counts.

Both are baselines that judge experts one by one: by frequency, and by the router-weighted norm of REAP (arXiv
2510.13999), the mean over the tokens that an expert gets of the router's weight times ||its answer||. Costs that pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evopress.errors import NotEnoughTokens
from evopress.models.batches import batches
from evopress.models.routing import Routed
from evopress.models.runner import Runner


@dataclass(frozen=True, slots=True)
class Saliency:
    """unit -> `frequency`, the tokens that chose it as a part of all; -> `weighted`, REAP's; 0 of one never chosen."""

    tokens: int
    frequency: dict[str, float]
    weighted: dict[str, float]


def measure_saliency(
    runner: Runner, layers: Sequence[Routed], sequences: Sequence[Tensor], *, batch_tokens: int = 1024
) -> Saliency:
    """Measure the dense model on `sequences`, each a 1-D tensor of token ids; NotEnoughTokens when there are none."""
    tokens = sum(map(len, sequences))
    if not tokens:
        raise NotEnoughTokens("the text holds 0 tokens; measuring experts needs at least 1")
    counts = {layer.path: torch.zeros(layer.count, dtype=torch.float64) for layer in layers}
    sums = {layer.path: torch.zeros(layer.count, dtype=torch.float64) for layer in layers}

    def watch(path: str) -> Any:
        def see(chosen: Tensor, weights: Tensor, answers: Tensor) -> None:
            chosen = chosen.reshape(-1).cpu()
            parts = (answers.float().norm(dim=-1) * weights.float().abs()).reshape(-1).double().cpu()
            counts[path].index_add_(0, chosen, torch.ones_like(parts))
            sums[path].index_add_(0, chosen, parts)

        return see

    with ExitStack() as watching:
        for layer in layers:
            experts: Any = runner.model.get_submodule(layer.path)
            watching.enter_context(experts.watched(watch(layer.path)))
        for ids in batches(sequences, batch_tokens):
            hidden, contexts = runner.begin(ids.to(runner.device))
            for block in range(runner.map.n_blocks):
                hidden = runner.block(block, hidden, contexts)
    names = [(layer, number, layer.expert(number)) for layer in layers for number in range(layer.count)]
    return Saliency(
        tokens,
        {name: float(counts[layer.path][number]) / tokens for layer, number, name in names},
        {
            name: float(sums[layer.path][number] / counts[layer.path][number].clamp(min=1))
            for layer, number, name in names
        },
    )
