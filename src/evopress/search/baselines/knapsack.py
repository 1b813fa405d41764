"""Baseline: dynamic programming over layer-wise errors (as SPDY does), the best profile if errors simply added up.

The problem is a multiple-choice knapsack: one level for each unit, least sum of errors, cost within the budget. Costs
above the cheapest profile, divided by their greatest common divisor, are the columns of a table with one row per unit;
time is rows x columns x levels in numpy, memory one byte per cell. For costs that are weights times bits the divisor is
large and the answer is exact. A bundle (units that are dropped together) is one step of the same table: without it, or
with the best of its own rows.

When the table would exceed `MAX_CELLS` (costs that count scales and zeros, hundreds of units), a column stands for a
coarser quantum and costs are rounded UP to it, which can never break the budget but wastes up to one quantum per unit.
What is left is spent greedily, best error per cost first. On 120 units of real sizes with convex errors the sum of
errors is then within 0.3 % of a lower bound at 800 columns, 0.1 % at 3,000; the default leaves 40,000 for 500 units.
(Tried and worse: more columns, read from the last whose true cost fits, with costs rounded up or to the nearest.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem

import numpy as np
import numpy.typing as npt

from evopress.core.bundles import Bundles
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ProfileError
from evopress.search.moves.draft import Draft
from evopress.search.planned import OneBatch

MAX_CELLS = 20_000_000
"""The largest table, in cells: 20 MB at one byte each."""

Errors = Mapping[str, Mapping[str, float]]


def knapsack(space: SearchSpace, errors: Errors, *, max_cells: int = MAX_CELLS) -> Profile:
    """The profile within the budget with the least sum of `errors[unit][level]` (paper, section 4, baseline DP).

    Exact when the table fits into `max_cells`, otherwise close to it, and within the budget always. An error that is
    not finite marks a level as one to avoid. ProfileError when an error is missing or a unit has no finite one.
    """
    chosen = dict(pair for part in space.parts() for pair in _solve(part, errors, max_cells).items())
    return Profile(space.named, tuple(chosen[name] for name in space.named))


class Knapsack(OneBatch):
    """Score the knapsack's profile once."""

    def __init__(self, space: SearchSpace, errors: Errors, *, tokens: int) -> None:
        super().__init__([knapsack(space, errors)], tokens=tokens)


def _solve(space: SearchSpace, errors: Errors, max_cells: int) -> Profile:
    """The knapsack of a space whose budget is not split."""
    table = error_table(space, errors)
    room = min(space.budget, space.highest) - sum(costs[0] for costs in space.costs)
    extras = [[cost - costs[0] for cost in costs] for costs in space.costs]
    exact = math.gcd(*(extra for own in extras for extra in own)) or 1
    quantum = exact * max(1, -(-room * len(extras) // (exact * max_cells)))
    weights = [[-(-extra // quantum) for extra in own] for own in extras]

    def solved(table: Sequence[Sequence[float]]) -> tuple[int, ...]:
        rows = _fill_table(table, weights, room // quantum + 1, space.bundles)
        return spend_greedily(space, table, _trace(rows, weights))

    levels = solved(table)
    if not space.fits(levels):  # all bundles dropped: each in turn is the one that has to stay
        kept = [solved(_never_dropped(table, bundle)) for bundle in space.bundles]
        sums = {found: sum(map(getitem, table, found)) for found in kept if space.fits(found)}
        levels = min(sums, key=sums.__getitem__) if sums else _cheapest(space)
    return space.decode(levels)


def _cheapest(space: SearchSpace) -> tuple[int, ...]:
    """Everything at its lowest level and all but the cheapest bundle dropped: what always fits."""
    stays = min(space.bundles, key=lambda bundle: sum(space.costs[unit][1] for unit in bundle))
    return tuple(int(unit in stays) for unit in range(len(space.units)))


def _never_dropped(table: Sequence[Sequence[float]], bundle: Sequence[int]) -> list[list[float]]:
    return [[math.inf, *own[1:]] if unit in bundle else list(own) for unit, own in enumerate(table)]


def error_table(space: SearchSpace, errors: Errors) -> list[list[float]]:
    """`table[unit][level]` in the space's order, infinity for what is not finite."""
    table: list[list[float]] = []
    for unit in space.units:
        try:
            row = [sum(float(errors[name][level.name]) for name in unit.named) for level in unit.levels]
        except KeyError as missing:
            raise ProfileError(f"unit {unit.name}: no error is known for {missing}; the knapsack needs all") from None
        row = [error if math.isfinite(error) else math.inf for error in row]
        if min(row) == math.inf:
            raise ProfileError(f"unit {unit.name}: none of its {len(row)} levels has a finite error")
        table.append(row)
    return table


@dataclass(frozen=True)
class _Rows:
    """Rows of the table of units that are decided together: one unit, or a bundle, which may be `dropped` instead.

    `choices[i][column]`: the level of `units[i]` when it and all before it may weigh `column`.
    """

    units: tuple[int, ...]
    choices: list[npt.NDArray[np.unsignedinteger]]
    dropped: npt.NDArray[np.bool_] | None = None


def _fill_table(
    table: Sequence[Sequence[float]], weights: Sequence[Sequence[int]], columns: int, bundles: Bundles = ()
) -> list[_Rows]:
    """All rows: first the units that are in no bundle, then bundle by bundle, each dropped or at its best levels."""
    inside = {unit for bundle in bundles for unit in bundle}
    least = np.zeros(columns)
    found = []
    for units in [*((unit,) for unit in range(len(table)) if unit not in inside), *bundles]:
        bundled = units[0] in inside
        before, choices = least, []
        for unit in units:
            least, choice = _fill_row(least, table[unit], weights[unit], first=int(bundled))
            choices.append(choice)
        if not bundled:
            found.append(_Rows(units, choices))
            continue
        without = before + sum(table[unit][0] for unit in units)
        dropped = without <= least
        least = np.where(dropped, without, least)
        found.append(_Rows(units, choices, dropped))
    return found


def _fill_row(
    least: npt.NDArray[np.float64], errors: Sequence[float], own: Sequence[int], first: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.unsignedinteger]]:
    """The least sums with one unit more, at its level `first` or a higher one, and which level that is."""
    columns = len(least)
    best, choice = np.full(columns, math.inf), np.full(columns, first, dtype=np.min_scalar_type(len(errors)))
    for level in range(first, len(errors)):
        if own[level] >= columns:
            break
        other = least[: columns - own[level]] + errors[level]
        better = other < best[own[level] :]
        np.copyto(best[own[level] :], other, where=better)
        choice[own[level] :][better] = level
    return best, choice


def _trace(rows: Sequence[_Rows], weights: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The levels that led to the last column of the last row."""
    levels, column = [0] * len(weights), len(rows[-1].choices[-1]) - 1
    for row in reversed(rows):
        if row.dropped is not None and row.dropped[column]:
            continue
        for unit, choice in zip(reversed(row.units), reversed(row.choices), strict=True):
            levels[unit] = int(choice[column])
            column -= weights[unit][levels[unit]]
    return tuple(levels)


def spend_greedily(space: SearchSpace, table: Sequence[Sequence[float]], levels: Sequence[int]) -> tuple[int, ...]:
    """Raise the unit whose next level removes the most error per cost, until no such step fits."""
    draft = Draft(space, levels)

    def gain(unit: int) -> float:
        now, then = table[unit][draft.levels[unit]], table[unit][draft.levels[unit] + 1]
        return (now - then) / draft.step_up(unit) if then < now else 0.0

    while useful := [unit for unit in draft.affordable(range(len(space.units))) if gain(unit) > 0]:
        draft.up(max(useful, key=gain))
    return tuple(draft.levels)
