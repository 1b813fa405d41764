"""Grouping token sequences into batches of equal length, in a fixed order.

The grouping depends on the sequences alone, so the same text always meets the same tensor shapes and gives the same
bits, whichever process runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def batch_indices(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Positions of sequences that go through the model together.

    Only sequences of equal length share a batch; a batch holds at most `batch_tokens` tokens or one sequence.

    >>> batch_indices([4, 4, 2, 4], batch_tokens=8)
    [[0, 1], [2], [3]]
    """
    groups: dict[int, list[list[int]]] = {}
    for position, length in enumerate(lengths):
        batches_of_length = groups.setdefault(length, [[]])
        if batches_of_length[-1] and (len(batches_of_length[-1]) + 1) * length > batch_tokens:
            batches_of_length.append([])
        batches_of_length[-1].append(position)
    return sorted(batch for batches_of_length in groups.values() for batch in batches_of_length)


def batches(sequences: Sequence[torch.Tensor], batch_tokens: int) -> list[torch.Tensor]:
    """Stack 1-D token sequences into (batch, length) tensors by `batch_indices`."""
    groups = batch_indices([len(sequence) for sequence in sequences], batch_tokens)
    return [torch.stack([sequences[position] for position in group]) for group in groups]
