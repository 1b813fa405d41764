"""Pruning by a score that is settled beforehand: the lowest go, and no other weight moves to make up for it.

What Wanda and magnitude pruning share. Costs a choice of mask and an error, one matrix product, per weight and level.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evopress.levels.hessian import output_energy, relative_error
from evopress.levels.levels import Pattern, Sparsity
from evopress.levels.masks import ranks
from evopress.levels.packed import Compressed
from evopress.levels.sparse import Sparse

Choose = Callable[[int], Tensor]
"""Number of zeros -> mask (rows, columns) of one weight, uint8, 1 for a weight that stays."""


def prune_scored(
    weight: Tensor,
    scores: Tensor,
    choose: Choose,
    levels: Sequence[Sparsity],
    hessian: Tensor | None,
    dtype: torch.dtype,
) -> list[Compressed[Sparse]]:
    """`weight` (rows, columns) at each of `levels`: numbers of zeros by `choose`, patterns by `scores`.

    Errors are measured on `hessian` and the stored weights, without one on uncorrelated inputs.
    """
    answer = []
    energy = _energy(weight, hessian)
    for sparsity in levels:
        kept = pattern_mask(scores, sparsity) if isinstance(sparsity, Pattern) else choose(sparsity)
        tensor = Sparse.from_dense(weight, kept, dtype)
        error = _energy(weight - tensor.dequantize(weight.dtype), hessian)
        answer.append(Compressed(tensor, relative_error(error, energy), damping=0.0))
    return answer


def pattern_mask(scores: Tensor, pattern: Pattern) -> Tensor:
    """The mask, in the shape of `scores` (rows, columns), that keeps the highest of each group of a row."""
    groups = scores.view(len(scores), -1, pattern.group)
    return (ranks(groups.unbind(2)) < pattern.kept).movedim(0, 2).reshape(scores.shape).view(torch.uint8)


def _energy(weight: Tensor, hessian: Tensor | None) -> float:
    if hessian is None:
        return float(weight.square().sum(dtype=torch.float64))
    return output_energy(weight, hessian)
