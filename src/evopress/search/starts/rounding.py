"""From real-valued wishes to a profile: the nearest levels, repaired until the budget is met. Deterministic.

Distance is the squared difference of costs over the unit's size, so that a wish of one sparsity for many layers is
missed by equal amounts in all of them. Each repair step moves one unit by one level, the one whose distance grows
least per cost; a step is linear in the number of units.
"""

from __future__ import annotations

from collections.abc import Sequence

from evopress.core.space import SearchSpace
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices


def nearest(space: SearchSpace, wanted: Sequence[float]) -> Indices:
    """Level indices whose costs are near `wanted`, one for each unit, within the budget and with no step unspent.

    Where all steps cost the same the budget is met exactly, if levels allow.

    >>> from evopress.core.profile import Level, Unit
    >>> from evopress.core.space import make_space
    >>> units = [Unit(f"u{i}", i, "u", 10, tuple(Level(str(c), c) for c in (2, 4, 6, 8))) for i in range(3)]
    >>> nearest(make_space(units, average="0.4", exchange="any"), [3.5, 3.5, 6.8])  # 4 + 4 + 6 is above 12
    (0, 1, 2)
    """
    draft = Draft(space, [_closest(costs, wish) for costs, wish in zip(space.costs, wanted, strict=True)])
    offs = [cost - wish for cost, wish in zip(_costs(space, draft), wanted, strict=True)]
    for units, most in space.limits:
        draft.narrow(units, most)
        while not draft.fits:
            unit = min(draft.lowerable(units), key=lambda u: (draft.step_down(u) - 2 * offs[u]) / space.units[u].size)
            offs[unit] -= draft.step_down(unit)
            draft.down(unit)
        while affordable := draft.affordable(units):
            unit = min(affordable, key=lambda u: (draft.step_up(u) + 2 * offs[u]) / space.units[u].size)
            offs[unit] += draft.step_up(unit)
            draft.up(unit)
    return tuple(draft.levels)


def _closest(costs: Sequence[int], wish: float) -> int:
    """The level of the nearest cost, the cheaper of two."""
    return min(range(len(costs)), key=lambda level: abs(costs[level] - wish))


def _costs(space: SearchSpace, draft: Draft) -> list[int]:
    return [costs[level] for costs, level in zip(space.costs, draft.levels, strict=True)]
