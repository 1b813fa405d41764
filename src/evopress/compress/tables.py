"""Scales and zeros of stacked rows: the rows of all layers of an input, below each other once for each grid.

Costs one copy of a group's scales when a column of another group comes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evopress.compress.grid import Grid


class GridRows:
    """The stacked rows of one grid, with their `scale` and `zero` (groups, rows of the grid)."""

    def __init__(self, grid: Grid, rows: slice, like: Tensor) -> None:
        columns, count = like.shape
        self.grid, self.rows, self.width = grid, rows, grid.width(columns)
        self.spans = grid.spans(columns)
        self.scale = like.new_zeros(grid.groups(columns), count)
        self.zero = torch.zeros_like(self.scale)

    def values(self, signed: Tensor) -> Tensor:
        """What `signed` codes (columns, rows of the grid) stand for."""
        answer = torch.empty_like(signed)
        for group, span in enumerate(self.spans):
            torch.mul(signed[span], self.scale[group], out=answer[span])
        return answer


class Tables:
    """The grids of stacked rows, and the scale and range of signed codes (stacked rows,) at one column at a time."""

    def __init__(self, weights: Tensor, grids: Sequence[Grid]) -> None:
        count = weights.shape[1]
        self.parts = [GridRows(grid, slice(i * count, (i + 1) * count), weights) for i, grid in enumerate(grids)]
        self.scale = weights.new_empty(count * len(grids))
        self.low, self.high = torch.empty_like(self.scale), torch.empty_like(self.scale)
        self._groups = [-1] * len(grids)

    def use(self, column: int) -> None:
        """Make the scales of the groups that hold `column` the current ones."""
        for i, part in enumerate(self.parts):
            group = column // part.width
            if group != self._groups[i]:
                self._groups[i] = group
                self.scale[part.rows] = part.scale[group]
                self.low[part.rows] = -part.zero[group]
                self.high[part.rows] = part.grid.top - part.zero[group]

    def forget(self) -> None:
        """Read the tables anew at the next `use`, as they have changed."""
        self._groups = [-1] * len(self.parts)
