"""Magnitude pruning: the smallest weights of a matrix go, whatever they are multiplied with.

The baseline of every better method, and the one that needs no calibration data. Costs a few passes over the weights.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from evopress.levels.hessian import check_hessian
from evopress.levels.levels import Sparsity, check_levels
from evopress.levels.masks import keep_largest
from evopress.levels.packed import Compressed
from evopress.levels.scored import prune_scored
from evopress.levels.sparse import Sparse, stored_dtype
from evopress.levels.stacking import stack_weights


def prune_magnitude(
    weights: Sequence[Tensor],
    levels: Sequence[Sequence[Sparsity]],
    *,
    hessian: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> list[list[Compressed[Sparse]]]:
    """Prune each of `weights` (rows, columns) to each of its `levels`; the answer is indexed [weight][level].

    ``levels[weight]`` holds exact numbers of zeros, for which the lowest |w| of the whole matrix go, or N:M patterns;
    of equal weights the first go. Kept weights are stored as `dtype` (see `stored_dtype`). The errors are measured on
    `hessian` (columns, columns), or without one on uncorrelated inputs, where they are ||W-Wc||^2 / ||W||^2. Raises
    ConfigError for levels or shapes that do not fit, BadWeights for NaN or infinity.
    """
    stack = stack_weights(weights)
    if hessian is not None:
        check_hessian(hessian, stack.shape[1])
    check_levels(levels, [(len(weight), stack.shape[1]) for weight in weights])
    dtype = stored_dtype(weights, dtype)
    answer = []
    for weight, own in zip(torch.split(stack, [len(weight) for weight in weights]), levels, strict=True):
        scores = weight.abs()
        answer.append(prune_scored(weight, scores, partial(keep_largest, scores), own, hessian, dtype))
    return answer
