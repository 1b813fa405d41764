"""Wanda: weights times the size of what they see, compared within each output row (Sun et al., arXiv 2306.11695).

Needs the Hessian's diagonal alone and moves no weight. Costs two sorts of each row, whatever the number of levels.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from evopress.levels.hessian import check_hessian
from evopress.levels.levels import Sparsity, check_levels, spread
from evopress.levels.packed import Compressed
from evopress.levels.scored import prune_scored
from evopress.levels.sparse import Sparse, stored_dtype
from evopress.levels.stacking import stack_weights


def prune_wanda(
    weights: Sequence[Tensor],
    hessian: Tensor,
    levels: Sequence[Sequence[Sparsity]],
    *,
    dtype: torch.dtype | None = None,
) -> list[list[Compressed[Sparse]]]:
    """Prune each of `weights` (rows, columns) to each of its `levels`; the answer is indexed [weight][level].

    ``levels[weight]`` holds exact numbers of zeros, which are spread evenly over the rows, or N:M patterns. Within a
    row or group the lowest ``|w| * ||x||`` go, with ||x||^2 from the diagonal of `hessian` (columns, columns), the mean
    of x x^T; of equal ones the first go. Kept weights are stored as `dtype` (see `stored_dtype`). Raises ConfigError
    for levels or shapes that do not fit, BadWeights for NaN or infinity in a weight, DataError in the Hessian.
    """
    stack = stack_weights(weights)
    check_hessian(hessian, stack.shape[1])
    check_levels(levels, [(len(weight), stack.shape[1]) for weight in weights])
    dtype = stored_dtype(weights, dtype)
    norms = hessian.diagonal().clamp(min=0).sqrt().to(stack.dtype)
    answer = []
    for weight, own in zip(torch.split(stack, [len(weight) for weight in weights]), levels, strict=True):
        scores = weight.abs() * norms
        choose = partial(_keep_in_rows, scores.argsort(dim=1, stable=True).argsort(dim=1))
        answer.append(prune_scored(weight, scores, choose, own, hessian, dtype))
    return answer


def _keep_in_rows(places: Tensor, zeros: int) -> Tensor:
    """The mask that drops `zeros` weights, the first of each row by their `places` (rows, columns) in its order."""
    counts = torch.tensor(spread(zeros, [1] * len(places)), device=places.device)
    return (places >= counts.unsqueeze(1)).view(torch.uint8)
