"""The uncompressed model's answers, kept as the inputs of its head: hidden_size numbers a token.

Stored logits would take vocabulary / hidden_size times as much (85 times on SmolLM2). A sequence is computed when it is
first asked for, and always alone, so nothing is computed that no minibatch draws and the bits do not depend on who
asked first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.models.runner import Runner


class Teacher:
    """Head inputs of the dense model for a set of sequences. The model must hold its dense weights when asked."""

    def __init__(self, runner: Runner, sequences: Sequence[Tensor]) -> None:
        self._runner, self._sequences = runner, sequences
        self._known: dict[int, Tensor] = {}

    def missing(self, positions: Sequence[int]) -> bool:
        """Whether any of the sequences has not been computed yet."""
        return any(position not in self._known for position in positions)

    @torch.inference_mode()
    def compute(self, positions: Sequence[int]) -> None:
        """Run the dense model on those of the sequences that are not known yet."""
        for position in positions:
            if position not in self._known:
                ids = self._sequences[position][None].to(self._runner.device)
                self._known[position] = self._runner.head_input(ids)[0]

    def hidden(self, position: int, length: int) -> Tensor:
        """Head inputs (length, hidden) of the first `length` tokens of a sequence that has been computed."""
        return self._known[position][:length]
