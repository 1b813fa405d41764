"""Checks and stacks the weights that are compressed together: every method starts here."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.errors import BadWeights, ConfigError

MAX_STACK = {"cpu": 2**26, "cuda": 2**30}
"""Weights times levels in one sweep: 256 MB in fp32 on a CPU. A GPU waits for its next column whatever their length,
so there the whole of an 8B model's widest input goes at once: 2.3 GB.
"""


def max_stack(device: torch.device) -> int:
    """How many weights times levels one sweep takes on a device."""
    return MAX_STACK.get(device.type, MAX_STACK["cpu"])


def stack_weights(weights: Sequence[Tensor]) -> Tensor:
    """All rows of `weights` (each (rows, columns)) below each other, in fp32, or in float64 if one of them is.

    ConfigError when there are none or they are no matrices of equal width; BadWeights for NaN or infinity.
    """
    if not weights:
        raise ConfigError("no weights to compress, must be at least one")
    for weight in weights:
        if weight.ndim != 2 or 0 in weight.shape or weight.shape[1] != weights[0].shape[-1]:
            shapes = [tuple(weight.shape) for weight in weights]
            raise ConfigError(f"weights have shapes {shapes}, must be non-empty matrices with equal columns")
    dtype = torch.float64 if any(weight.dtype == torch.float64 for weight in weights) else torch.float32
    stack = torch.cat([weight.detach().to(dtype) for weight in weights])
    if not bool(stack.isfinite().all()):
        bad = next(i for i, weight in enumerate(weights) if not bool(weight.isfinite().all()))
        raise BadWeights(f"weight {bad} of {len(weights)} holds NaN or infinity, must be finite")
    return stack
