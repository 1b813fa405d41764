"""Scales and zeros of stacked rows: the rows of all layers of an input, below each other once for each grid.

Columns between two starts of groups, of whichever grid, share a row of the tables: what a column needs is a view.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from evopress.levels.grid import Grid


class GridRows:
    """The stacked rows of one grid, with their `scale` and `zero` (groups, rows of the grid), to be read only."""

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
    """The grids of stacked `weights` (columns, rows of each grid): their scales and ranges of signed codes."""

    def __init__(self, weights: Tensor, grids: Sequence[Grid]) -> None:
        columns, count = weights.shape
        self.parts = [GridRows(grid, slice(i * count, (i + 1) * count), weights) for i, grid in enumerate(grids)]
        starts = sorted({span.start for part in self.parts for span in part.spans})
        self._segments = [i for i, (start, stop) in enumerate(pairwise([*starts, columns])) for _ in range(start, stop)]
        self._scale = weights.new_empty(len(starts), count * len(grids))
        self._low, self._high = torch.empty_like(self._scale), torch.empty_like(self._scale)

    @property
    def rows(self) -> int:
        """Stacked rows of all grids."""
        return self._scale.shape[1]

    def at(self, column: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, lowest and highest signed code (stacked rows,) at a column."""
        segment = self._segments[column]
        return self._scale[segment], self._low[segment], self._high[segment]

    def settle(self, part: GridRows, group: int, scale: Tensor, zero: Tensor) -> None:
        """Give a group of one grid its scale and zero (rows of the grid,)."""
        span = part.spans[group]
        segments = slice(self._segments[span.start], self._segments[span.stop - 1] + 1)
        part.scale[group], part.zero[group] = scale, zero
        self._scale[segments, part.rows] = scale
        self._low[segments, part.rows] = -zero
        self._high[segments, part.rows] = part.grid.top - zero
