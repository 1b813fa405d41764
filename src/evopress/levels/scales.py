"""Scales and zeros that lose least, group by group: a search over shrunken ranges with the best scale of each.

The range from a group's lowest to its highest weight is rarely the best one: at few bits a narrower one is finer where
most weights are, and a zero moved by one wastes no code on a side that holds none. What counts as loss is the squared
error of each column times its `importance`; for a method with error feedback that is what an error costs after all
columns to come have repaired what they can (`Feedback.cost`). Costs half a dozen passes over the weights for each
candidate, 39 of them at 2 bits and four from 5 bits on, in pieces that stay in a core's cache.
"""

import torch
from torch import Tensor

from evopress.levels.grid import Grid, fit, storable

STEP = 0.05
"""Between the factors that a range is shrunk by; finer ones gain little, as each has its best scale fitted."""

NARROWEST = {1: 0.4, 2: 0.4, 3: 0.6, 4: 0.75}
"""The least factor for so many bits, well below what a normal distribution wants; 0.85 for more bits."""

SHIFTS = (0, -1, 1)
"""How far the zero is moved at up to 4 bits; finer grids have codes to spare, symmetric ones keep their zero."""

CACHED = {"cpu": 2**17}
"""Weights that are looked at together where a core's cache counts; elsewhere all at once."""


def factors(bits: int) -> list[float]:
    """What a range is shrunk by, the full range first.

    >>> factors(8)
    [1.0, 0.95, 0.9, 0.85]
    """
    return [1 - STEP * step for step in range(round((1 - NARROWEST.get(bits, 0.85)) / STEP) + 1)]


def shifts(grid: Grid) -> tuple[int, ...]:
    """How far the zero is moved on a grid."""
    return SHIFTS if grid.bits <= max(NARROWEST) and not grid.symmetric else (0,)


def search_scales(weights: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scales and zeros (rows,) of one group of `weights` (width, rows) on a grid, as `grid.fit` gives them.

    `importance` (width,) weighs the columns' squared errors, not negative. The answer loses no more than the full range
    does, and equals it where importance or weights are zero.

    >>> weights = torch.tensor([[0.1], [-0.1], [0.12], [0.2]])
    >>> scale, zero = search_scales(weights, torch.tensor([1.0, 1.0, 1.0, 0.0]), Grid(bits=2))
    >>> round(float(scale), 3), float(zero)
    (0.107, 1.0)
    """
    column = importance.to(weights).unsqueeze(0)
    pieces = torch.split(weights, max(1, CACHED.get(weights.device.type, weights.numel()) // len(weights)), dim=1)
    found = [_search(piece, column, grid) for piece in pieces]
    return torch.cat([scale for scale, _ in found]), torch.cat([zero for _, zero in found])


def _search(weights: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """`search_scales` of some rows; `importance` is (1, width)."""
    low, high = weights.amin(0), weights.amax(0)
    weighted = importance.T * weights
    steps, codes = torch.empty_like(weights), torch.empty_like(weights)
    answer: tuple[Tensor, Tensor, Tensor] | None = None
    for factor in factors(grid.bits):
        scale, middle = fit(low * factor, high * factor, grid)
        torch.div(weights, scale, out=steps).round_()
        for shift in shifts(grid):
            zero = (middle + shift).clamp_(0, grid.top)
            torch.clamp(steps, -zero, grid.top - zero, out=codes)
            found = *_best_scale(codes, weighted, importance, scale, grid), zero
            answer = found if answer is None else _better(answer, found)
    assert answer is not None  # the full range is always there
    return answer[1], answer[2]


def _best_scale(
    codes: Tensor, weighted: Tensor, importance: Tensor, scale: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """The loss and the scale (rows,): the better of `scale` and the one by least squares for signed `codes`.

    The loss leaves out the energy of the weights, which is the same for all scales. `codes` are overwritten.
    """
    cross = torch.linalg.vecdot(codes, weighted, dim=0)
    energy = (importance @ codes.square_()).squeeze(0)
    fitted = storable(torch.where(energy > 0, cross / energy, scale), grid)
    before, after = (s * (s * energy - 2 * cross) for s in (scale, fitted))
    return torch.minimum(before, after), torch.where(after < before, fitted, scale)


def _better(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Row by row, that of less loss; the first of equals."""
    wins = other[0] < one[0]
    loss, scale, zero = (torch.where(wins, new, old) for old, new in zip(one, other, strict=True))
    return loss, scale, zero
