"""GPTQ for all layers of one input and all grids at once (Frantar et al., arXiv 2210.17323).

Costs one factorisation of the Hessian for the group, then one sweep over all weights times all grids, in slices of
rows that keep the working set small. Errors are by-products of the sweep.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.compress.grid import Grid, fit
from evopress.compress.hessian import (
    Feedback,
    check_hessian,
    dead_columns,
    make_feedback,
    output_energy,
    relative_error,
)
from evopress.compress.packed import Compressed
from evopress.compress.quantized import Quantized
from evopress.compress.stacking import max_stack, stack_weights
from evopress.compress.sweep import Ahead, sweep
from evopress.errors import ConfigError


def quantize_gptq(
    weights: Sequence[Tensor],
    hessian: Tensor,
    grids: Sequence[Grid],
    *,
    damping: float = 0.01,
    block: int = 128,
    act_order: bool = False,
) -> list[list[Compressed[Quantized]]]:
    """Quantize `weights` (rows, columns), which all read the input of `hessian`, to each of `grids`: [weight][grid].

    `hessian` (columns, columns) is the mean of x x^T over calibration tokens, or any multiple of it; `damping` is
    relative to its mean diagonal over live columns and grows tenfold until the factorisation succeeds; `block` is how
    many columns are finished before the rest of the matrix is corrected, which affects speed only. With `act_order`,
    columns are rounded in order of decreasing input energy, on scales fitted to the original weights, and stored in
    the original order. Weights of dead columns (no input energy) become zero.

    Raises ConfigError for options or shapes that do not fit, BadWeights for NaN or infinity in a weight, DataError
    when the Hessian is not finite or not positive definite even with the highest damping.
    """
    stack = stack_weights(weights)
    check_hessian(hessian, stack.shape[1])
    if block < 1:
        raise ConfigError(f"block is {block}, must be at least 1 column")
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    feedback = make_feedback(hessian if order is None else hessian[order][:, order], damping=damping, dtype=stack.dtype)
    live = ~dead_columns(hessian)
    slices = torch.split(stack, max(1, max_stack(stack.device) // (stack.shape[1] * max(1, len(grids)))))
    parts = [_quantize_rows(rows, live, feedback, grids, order, block) for rows in slices]
    joined = [_concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return _collect(torch.split(stack, [len(weight) for weight in weights]), hessian, grids, joined, feedback.damping)


class _Rows:
    """The stacked rows of one grid: their tables of scales and zeros, and the group that is in use."""

    def __init__(self, grid: Grid, rows: slice, like: Tensor) -> None:
        columns, count = like.shape
        self.grid, self.rows, self.width = grid, rows, grid.width(columns)
        self.scale = like.new_zeros(grid.groups(columns), count)
        self.zero = torch.zeros_like(self.scale)
        self.group = -1

    def fit(self, group: int, weights: Tensor) -> None:
        """Settle scale and zero of `group` from its `weights` (columns, rows)."""
        self.scale[group], self.zero[group] = fit(weights.amin(0), weights.amax(0), self.grid)


class GridRounder:
    """Rounds stacked columns, each grid's rows to that grid. A `Rounder` of the sweep; leaves codes minus zeros.

    `weights` (columns, rows) are the rows of one grid, which are stacked once per grid. With `order`, the sweep's c-th
    column is column ``order[c]`` of `weights`, and all scales are settled beforehand; without, each when its group
    starts.
    """

    def __init__(self, weights: Tensor, grids: Sequence[Grid], order: Tensor | None) -> None:
        columns, count = weights.shape
        self.parts = [_Rows(grid, slice(i * count, (i + 1) * count), weights) for i, grid in enumerate(grids)]
        self.order = range(columns) if order is None else order.tolist()
        self.starts = (
            frozenset(c for part in self.parts for c in range(0, columns, part.width)) if order is None else ()
        )
        self._scale = weights.new_empty(count * len(grids))
        self._low, self._high = torch.empty_like(self._scale), torch.empty_like(self._scale)
        self._codes = torch.empty_like(self._scale)
        if order is not None:
            for part in self.parts:
                for group, span in enumerate(part.grid.spans(columns)):
                    part.fit(group, weights[span])

    def begin(self, column: int, ahead: Ahead) -> None:
        """Settle the scales of the groups that start at `column`."""
        for part in self.parts:
            if column % part.width == 0:
                stop = min(column + part.width, len(self.order))
                part.fit(column // part.width, ahead(stop, part.rows))

    def round(self, column: int, weights: Tensor, error: Tensor) -> None:
        """Replace `weights` by signed codes and tell the `error` of what they stand for."""
        if not self.starts or column in self.starts:
            self._use(self.order[column])
        torch.div(weights, self._scale, out=self._codes)
        torch.clamp(self._codes.round_(), self._low, self._high, out=self._codes)
        torch.addcmul(weights, self._codes, self._scale, value=-1, out=error)
        weights.copy_(self._codes)

    def _use(self, column: int) -> None:
        """Make the scales of the groups that hold `column` (original order) the current ones."""
        for part in self.parts:
            group = column // part.width
            if group != part.group:
                part.group = group
                self._scale[part.rows] = part.scale[group]
                self._low[part.rows] = -part.zero[group]
                self._high[part.rows] = part.grid.top - part.zero[group]


# Codes, scales and zeros of one grid's rows, and their squared output error per row.
_Part = tuple[Tensor, Tensor, Tensor, Tensor]


def _quantize_rows(
    rows: Tensor, live: Tensor, feedback: Feedback, grids: Sequence[Grid], order: Tensor | None, block: int
) -> list[_Part]:
    """Sweep `rows` (rows, columns) stacked once per grid; one `_Part` per grid."""
    weights = (rows * live).T.contiguous()
    rounder = GridRounder(weights, grids, order)
    stacked = (weights if order is None else weights[order]).repeat(1, len(grids))
    damped = sweep(stacked, feedback, rounder, block=block).double()
    if order is not None:
        stacked = stacked[order.argsort()]
    return [_finish(part, weights, stacked[:, part.rows], damped[part.rows], feedback.ridge) for part in rounder.parts]


def _finish(part: _Rows, weights: Tensor, signed: Tensor, damped: Tensor, ridge: float) -> _Part:
    """Turn the `signed` codes (columns, rows) of one grid into codes, and take the ridge's share out of the error.

    Damping adds ridge * ||w - wq||^2 to a row's output error.
    """
    codes = torch.empty(signed.shape, dtype=torch.uint8, device=signed.device)
    moved = torch.zeros_like(damped)
    for group, span in enumerate(part.grid.spans(len(weights))):
        codes[span] = signed[span] + part.zero[group]
        moved += torch.addcmul(weights[span], signed[span], part.scale[group], value=-1).square_().sum(0)
    scale, zero = part.scale.T.to(torch.float16), part.zero.T.to(torch.uint8)
    return codes.T.contiguous(), scale.contiguous(), zero.contiguous(), damped - ridge * moved


def _concatenate(pieces: Sequence[_Part]) -> _Part:
    """Slices of rows, joined again."""
    codes, scale, zero, error = (torch.cat(tensors) for tensors in zip(*pieces, strict=True))
    return codes, scale, zero, error


def _collect(
    weights: Sequence[Tensor], hessian: Tensor, grids: Sequence[Grid], parts: Sequence[_Part], damping: float
) -> list[list[Compressed[Quantized]]]:
    """Cut the stacked rows back into weights and pack them."""
    answer = []
    first = 0
    for weight in weights:
        rows = slice(first, first + len(weight))
        first = rows.stop
        energy = output_energy(weight, hessian)
        answer.append(
            [
                Compressed(
                    Quantized.from_codes(codes[rows], scale[rows], zero[rows], grid),
                    relative_error(float(error[rows].sum()), energy),
                    damping,
                )
                for grid, (codes, scale, zero, error) in zip(grids, parts, strict=True)
            ]
        )
    return answer
