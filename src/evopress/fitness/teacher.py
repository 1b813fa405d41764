"""The uncompressed model's answers, kept as the inputs of its head: hidden_size numbers a token.

Stored logits would take vocabulary / hidden_size times as much (85 times on SmolLM2). Hidden states are computed when a
sequence is first asked for, always in the same batches, so that the bits do not depend on who asked first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.models.batches import batch_indices
from evopress.models.runner import Runner


class Teacher:
    """Head inputs of the dense model for a set of sequences. The model must hold its dense weights when asked."""

    def __init__(self, runner: Runner, sequences: Sequence[Tensor], batch_tokens: int) -> None:
        self._runner, self._sequences = runner, sequences
        groups = batch_indices([len(sequence) for sequence in sequences], batch_tokens)
        self._group_of = {position: group for group in groups for position in group}
        self._known: dict[int, Tensor] = {}

    def missing(self, positions: Sequence[int]) -> bool:
        """Whether any of the sequences has not been computed yet."""
        return any(position not in self._known for position in positions)

    @torch.inference_mode()
    def compute(self, positions: Sequence[int]) -> None:
        """Run the dense model on those of the sequences that are not known yet."""
        for position in positions:
            if position not in self._known:
                group = self._group_of[position]
                hidden = self._forward(torch.stack([self._sequences[i] for i in group]).to(self._runner.device))
                self._known.update(zip(group, hidden, strict=True))

    def hidden(self, position: int, length: int) -> Tensor:
        """Head inputs (length, hidden) of the first `length` tokens of a sequence that has been computed."""
        return self._known[position][:length]

    def _forward(self, ids: Tensor) -> Tensor:
        hidden, contexts = self._runner.begin(ids)
        for block in range(self._runner.map.n_blocks):
            hidden = self._runner.block(block, hidden, contexts)
        return self._runner.finish(hidden)
