"""The column sweep: round one input column after another and let the columns to come repair each error.

Rows are independent given the Hessian, so the rows of all layers that read one input, and of all levels, go through one
sweep side by side. Weights are transposed, (columns, stacked rows): a column is contiguous, and what a column costs is
a handful of long vector operations whatever the number of layers and levels. Corrections are made at once only inside
runs of SMALL columns; the rest of the block, and then the rest of the matrix, gets them as matrix products. Together
these cost columns^2 / 2 * rows multiplications. How a column is rounded is the `Rounder`'s affair: grids for GPTQ,
masks for pruning.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from evopress.levels.hessian import Feedback

SMALL = 16  # columns between matrix products: rank-1 updates of more columns cost more than the products save


class Ahead(Protocol):
    """A look at the weights from the current column on, as all corrections so far have left them."""

    def __call__(self, stop: int, rows: slice) -> Tensor:
        """Columns up to `stop` of the stacked `rows`: (stop - column, rows), to be read only."""


class Rounder(Protocol):
    """What a sweep asks of a grid or of a mask."""

    @property
    def starts(self) -> Collection[int]:
        """Columns before which `begin` is called."""

    def begin(self, column: int, ahead: Ahead) -> None:
        """Settle scales or masks of what starts at `column` from corrected weights."""

    def round(self, column: int, weights: Tensor, error: Tensor) -> None:
        """Round `weights` (rows,) of one column: write weight minus rounded weight to `error`, then replace `weights`.

        The replacement is what the caller finds in the matrix after the sweep: rounded weights, or codes.
        """


def sweep(weights: Tensor, feedback: Feedback, rounder: Rounder, *, block: int) -> Tensor:
    """Round `weights` (columns, rows) in place; returns each row's squared output error under the damped Hessian.

    The errors (rows,) come for free: with d the diagonal of the inverse Hessian's factor, the output error of a row is
    the sum over columns of (weight at its turn - rounded weight)^2 / d^2.
    """
    columns, rows = weights.shape
    errors = weights.new_empty(min(block, columns), rows)
    total = weights.new_zeros(rows)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        for first, last in _runs(start, stop, rounder.starts):
            if first in rounder.starts:
                rounder.begin(first, _Ahead(weights, feedback.matrix, errors, start, first, stop))
            _round_run(weights[first:last], feedback.matrix, rounder, first, errors[first - start : last - start])
            _correct(weights[last:stop], feedback.matrix[first:last, last:stop], errors[first - start : last - start])
        _correct(weights[stop:], feedback.matrix[start:stop, stop:], errors[: stop - start])
        total += feedback.cost[start:stop] @ errors[: stop - start].square_()
    return total


def _runs(start: int, stop: int, starts: Collection[int]) -> Iterator[tuple[int, int]]:
    """Cut a block into runs of at most SMALL columns, so that every column of `starts` begins a run."""
    return pairwise(sorted({*range(start, stop, SMALL), *(c for c in range(start, stop) if c in starts), stop}))


def _round_run(weights: Tensor, matrix: Tensor, rounder: Rounder, first: int, errors: Tensor) -> None:
    """Round a run of columns that starts at column `first`, with a rank-1 correction after each."""
    last = first + len(weights)
    for i, (column, error) in enumerate(zip(weights.unbind(), errors.unbind(), strict=True), 1):
        rounder.round(first + i - 1, column, error)
        if i < len(weights):
            weights[i:].addr_(matrix[first + i - 1, first + i : last], error, alpha=-1)


def _correct(weights: Tensor, matrix: Tensor, errors: Tensor) -> None:
    """Let the columns `weights` give back the `errors` of columns before them."""
    if len(weights):
        weights.addmm_(matrix.T, errors, alpha=-1)


class _Ahead:
    """The `Ahead` of a sweep that stands at `column` of the block `start` to `stop`, between two runs.

    There the block is up to date, but the columns beyond still lack the corrections of this block.
    """

    def __init__(self, weights: Tensor, matrix: Tensor, errors: Tensor, start: int, column: int, stop: int) -> None:
        self._weights, self._matrix, self._errors = weights, matrix, errors
        self._start, self._column, self._stop = start, column, stop

    def __call__(self, stop: int, rows: slice) -> Tensor:
        current = self._weights[self._column : stop, rows]
        if stop > self._stop and self._column > self._start:
            current = current.clone()
            pending = self._matrix[self._start : self._column, self._stop : stop]
            _correct(current[self._stop - self._column :], pending, self._errors[: self._column - self._start, rows])
        return current
