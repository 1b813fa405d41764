"""After the sweep: codes by coordinate descent and scales by least squares, on the layer's own output error.

The sweep rounds each column once and never looks back. Here every code is visited again with all others as they are
now, and moved where that lowers its row's damped output error (w - wq) H (w - wq)^T; before that, every group's scale
is set to the best one for its codes. Neither can lose, as what is compared are scales as they are stored. A round costs
about five times the products of a sweep; the rows of all layers and grids go side by side, as there.
"""

import torch
from torch import Tensor

from evopress.levels.grid import storable
from evopress.levels.hessian import Feedback
from evopress.levels.sweep import Ahead, sweep
from evopress.levels.tables import GridRows, Tables


def refine(
    weights: Tensor, signed: Tensor, tables: Tables, hessian: Tensor, *, ridge: float, rounds: int, block: int
) -> Tensor:
    """Improve `signed` codes (columns, stacked rows) and the scales of `tables` in place; each row's damped error.

    `weights` (columns, rows) are stacked once for each grid; `hessian` (columns, columns) is damped by `ridge`.
    """
    damped = hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    diagonal = damped.diagonal().clone()
    diagonal[diagonal == 0] = 1  # dead columns without damping, which have neither weights nor slopes
    slope = torch.empty_like(signed)  # half the descent of the damped error by each weight: damped @ (w - wq)
    for part in tables.parts:
        torch.mm(damped, weights - part.values(signed[:, part.rows]), out=slope[:, part.rows])
    step = Feedback(matrix=damped / diagonal, cost=diagonal, damping=0.0, ridge=ridge)
    for _ in range(rounds):
        for part in tables.parts:
            _refit(slope[:, part.rows], signed[:, part.rows], tables, part, damped)
        moves = slope / diagonal.unsqueeze(1)
        sweep(moves, step, _Descent(signed, tables), block=block)
        slope.addmm_(damped, moves, alpha=-1)
    errors = [
        (slope[:, part.rows] * (weights - part.values(signed[:, part.rows]))).sum(0, dtype=torch.float64)
        for part in tables.parts
    ]
    return torch.cat(errors)


class _Descent:
    """Moves codes to the best for their column. A `Rounder` whose columns are residuals: how far each weight would
    go if all others stayed. Leaves how far it really went.
    """

    starts = ()

    def __init__(self, signed: Tensor, tables: Tables) -> None:
        self._signed, self._tables = signed, tables
        self._codes = signed.new_empty(tables.rows)

    def begin(self, column: int, ahead: Ahead) -> None:
        """Nothing starts anywhere: the scales stay."""

    def round(self, column: int, weights: Tensor, error: Tensor) -> None:
        """Replace the residuals `weights` by the change of their weights, which is the `error` to be given back."""
        scale, low, high = self._tables.at(column)
        before = self._signed[column]
        torch.div(weights, scale, out=self._codes).add_(before)
        torch.clamp(self._codes.round_(), low, high, out=self._codes)
        torch.mul(torch.sub(self._codes, before, out=weights), scale, out=weights)
        before.copy_(self._codes)
        error.copy_(weights)


def _refit(slope: Tensor, signed: Tensor, tables: Tables, part: GridRows, damped: Tensor) -> None:
    """Set one scale after another to the best for its group's codes, where what can be stored is better than before.

    A change of a scale by t changes the damped error by t^2 v D v - 2 t v g, with v the group's codes, D the damped
    Hessian and g the `slope`.
    """
    for group, span in enumerate(part.spans):
        codes = signed[span]
        reach = damped[:, span] @ codes
        gain = torch.linalg.vecdot(codes, slope[span], dim=0)
        curvature = torch.linalg.vecdot(codes, reach[span], dim=0)
        scale = part.scale[group]
        change = storable(torch.where(curvature > 0, scale + gain / curvature, scale), part.grid) - scale
        change *= change * (change * curvature - 2 * gain) < 0
        tables.settle(part, group, scale + change, part.zero[group])
        slope.addcmul_(reach, change, value=-1)
