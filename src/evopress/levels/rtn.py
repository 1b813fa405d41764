"""Round to nearest: every weight to the closest value of its group's grid, looking at nothing else.

The baseline of every better method, and the one that needs no calibration data. Costs a few passes over the weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.levels.grid import Grid, fit
from evopress.levels.hessian import check_hessian, output_energy, relative_error
from evopress.levels.packed import Compressed
from evopress.levels.quantized import Quantized
from evopress.levels.scales import search_scales
from evopress.levels.stacking import stack_weights


def quantize_rtn(
    weights: Sequence[Tensor], grids: Sequence[Grid], *, hessian: Tensor | None = None, search: bool = False
) -> list[list[Compressed[Quantized]]]:
    """Round each of `weights` (rows, columns) to each of `grids`; the answer is indexed [weight][grid].

    The errors are measured on `hessian` (columns, columns), or without one on uncorrelated inputs, where they are
    ||W-Wq||^2 / ||W||^2. With `search`, scales are those of least ||W-Wq||^2 (`scales.py`), else they span each group's
    range. Raises ConfigError for shapes that do not fit, BadWeights for NaN or infinity.
    """
    stack = stack_weights(weights)
    if hessian is None:
        hessian = torch.eye(stack.shape[1], dtype=stack.dtype, device=stack.device)
    check_hessian(hessian, stack.shape[1])
    return [
        [_compress(part, grid, hessian, search) for grid in grids]
        for part in torch.split(stack, [len(weight) for weight in weights])
    ]


def _compress(weight: Tensor, grid: Grid, hessian: Tensor, search: bool) -> Compressed[Quantized]:
    """One weight on one grid."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    scales, zeros = [], []
    for span in grid.spans(weight.shape[1]):
        group = weight[:, span]
        if search:
            scale, zero = (found.unsqueeze(1) for found in search_scales(group.T, torch.ones(group.shape[1]), grid))
        else:
            scale, zero = fit(group.amin(1, keepdim=True), group.amax(1, keepdim=True), grid)
        codes[:, span] = (group / scale).round_().add_(zero).clamp_(0, grid.top)
        scales.append(scale)
        zeros.append(zero)
    tensor = Quantized.from_codes(codes, torch.cat(scales, 1), torch.cat(zeros, 1).to(torch.uint8), grid)
    error = output_energy(weight - tensor.dequantize(weight.dtype), hessian)
    return Compressed(tensor, relative_error(error, output_energy(weight, hessian)), damping=0.0)
