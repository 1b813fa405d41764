"""GPTQ for all layers of one input and all grids at once (Frantar et al., arXiv 2210.17323), and what makes it better.

The bare method costs one factorisation of the Hessian for the group, then one sweep over all weights times all grids,
in slices of rows that keep the working set small; errors are by-products of the sweep. Searched scales cost about as
much as the sweep, each round of refinement about five times its products, and a mismatch two products of its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evopress.errors import ConfigError
from evopress.levels.grid import Grid, fit
from evopress.levels.hessian import (
    Feedback,
    Inputs,
    check_hessian,
    dead_columns,
    make_feedback,
    output_energy,
    relative_error,
    retarget,
)
from evopress.levels.packed import Compressed
from evopress.levels.quantized import Quantized
from evopress.levels.refine import refine
from evopress.levels.scales import search_scales
from evopress.levels.stacking import max_stack, stack_weights
from evopress.levels.sweep import Ahead, sweep
from evopress.levels.tables import GridRows, Tables


def quantize_gptq(
    weights: Sequence[Tensor],
    inputs: Inputs,
    grids: Sequence[Grid],
    *,
    damping: float = 0.01,
    block: int = 128,
    act_order: bool = False,
    search: bool = False,
    rounds: int = 0,
) -> list[list[Compressed[Quantized]]]:
    """Quantize `weights` (rows, columns), which all read the same `inputs`, to each of `grids`: [weight][grid].

    `damping` is relative to the Hessian's mean diagonal over live columns and grows tenfold until the factorisation
    succeeds; `block` is how many columns are finished before the rest of the matrix is corrected, which affects speed
    only. With `act_order`, columns are rounded in order of decreasing input energy, on scales fitted to the original
    weights, and stored in the original order. With `search`, scales are searched for (`scales.py`) instead of spanning
    each group's range; after the sweep, codes and scales are improved in `rounds` rounds (`refine.py`). Weights of
    dead columns (no input energy) become zero.

    Raises ConfigError for options or shapes that do not fit, BadWeights for NaN or infinity in a weight, DataError
    when the Hessian is not finite or not positive definite even with the highest damping.
    """
    stack, hessian = stack_weights(weights), inputs.hessian
    check_hessian(hessian, stack.shape[1])
    if block < 1 or rounds < 0:
        raise ConfigError(f"block is {block} columns, must be at least 1, and rounds are {rounds}, must be at least 0")
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    feedback = make_feedback(hessian if order is None else hessian[order][:, order], damping=damping, dtype=stack.dtype)
    if inputs.mismatch is not None:
        stack = retarget(stack, inputs.mismatch, feedback, order)
    job = _Job(~dead_columns(hessian), hessian.to(stack), feedback, grids, order, block, search, rounds)
    slices = torch.split(stack, max(1, max_stack(stack.device) // (stack.shape[1] * max(1, len(grids)))))
    joined = [_concatenate(pieces) for pieces in zip(*(_quantize_rows(rows, job) for rows in slices), strict=True)]
    return _collect(torch.split(stack, [len(weight) for weight in weights]), hessian, grids, joined, feedback.damping)


@dataclass(frozen=True)
class _Job:
    """What all slices of rows share. `live` is (columns,), `hessian` in the stored order, `feedback` in the sweep's."""

    live: Tensor
    hessian: Tensor
    feedback: Feedback
    grids: Sequence[Grid]
    order: Tensor | None
    block: int
    search: bool
    rounds: int

    @property
    def importance(self) -> Tensor | None:
        """What an error of each column costs, in the stored order; None where scales are not searched for."""
        if not self.search:
            return None
        return self.feedback.cost if self.order is None else self.feedback.cost[self.order.argsort()]


class GridRounder:
    """Rounds stacked columns, each grid's rows to that grid. A `Rounder` of the sweep; leaves codes minus zeros.

    `weights` (columns, rows) are the rows of one grid, which are stacked once per grid. With `order`, the sweep's c-th
    column is column ``order[c]`` of `weights`, and all scales are settled beforehand; without, each when its group
    starts. `importance` (columns,) are the weights of the search for scales; None takes the full range.
    """

    def __init__(self, weights: Tensor, grids: Sequence[Grid], order: Tensor | None, importance: Tensor | None) -> None:
        columns = len(weights)
        self.tables = Tables(weights, grids)
        self.order = range(columns) if order is None else order.tolist()
        self.starts = (
            frozenset(c for part in self.tables.parts for c in range(0, columns, part.width)) if order is None else ()
        )
        self._importance = importance
        self._codes = weights.new_empty(self.tables.rows)
        if order is not None:
            for part in self.tables.parts:
                for group, span in enumerate(part.spans):
                    self._fit(part, group, weights[span])

    def begin(self, column: int, ahead: Ahead) -> None:
        """Settle the scales of the groups that start at `column`."""
        for part in self.tables.parts:
            if column % part.width == 0:
                group = column // part.width
                self._fit(part, group, ahead(part.spans[group].stop, part.rows))

    def round(self, column: int, weights: Tensor, error: Tensor) -> None:
        """Replace `weights` by signed codes and tell the `error` of what they stand for."""
        scale, low, high = self.tables.at(self.order[column])
        torch.div(weights, scale, out=self._codes)
        torch.clamp(self._codes.round_(), low, high, out=self._codes)
        torch.addcmul(weights, self._codes, scale, value=-1, out=error)
        weights.copy_(self._codes)

    def _fit(self, part: GridRows, group: int, weights: Tensor) -> None:
        """Settle scale and zero of `group` from its `weights` (columns, rows)."""
        if self._importance is None:
            found = fit(weights.amin(0), weights.amax(0), part.grid)
        else:
            found = search_scales(weights, self._importance[part.spans[group]], part.grid)
        self.tables.settle(part, group, *found)


# Codes, scales and zeros of one grid's rows, and their squared output error per row.
_Part = tuple[Tensor, Tensor, Tensor, Tensor]


def _quantize_rows(rows: Tensor, job: _Job) -> list[_Part]:
    """Sweep `rows` (rows, columns) stacked once per grid, and refine them; one `_Part` per grid."""
    weights = (rows * job.live).T.contiguous()
    rounder = GridRounder(weights, job.grids, job.order, job.importance)
    signed = (weights if job.order is None else weights[job.order]).repeat(1, len(job.grids))
    damped = sweep(signed, job.feedback, rounder, block=job.block).double()
    if job.order is not None:
        signed = signed[job.order.argsort()]
    ridge, tables = job.feedback.ridge, rounder.tables
    if job.rounds:
        damped = refine(weights, signed, tables, job.hessian, ridge=ridge, rounds=job.rounds, block=job.block)
    return [_finish(part, weights, signed[:, part.rows], damped[part.rows], ridge) for part in tables.parts]


def _finish(part: GridRows, weights: Tensor, signed: Tensor, damped: Tensor, ridge: float) -> _Part:
    """Turn the `signed` codes (columns, rows) of one grid into codes, and take the ridge's share out of the error.

    Damping adds ridge * ||w - wq||^2 to a row's output error.
    """
    codes = torch.empty(signed.shape, dtype=torch.uint8, device=signed.device)
    moved = torch.zeros_like(damped)
    for group, span in enumerate(part.spans):
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
