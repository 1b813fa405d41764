"""Starts where parts can be dropped: each family alone, and one after the other at several splits.

What a joint search is held against: bits alone, drops alone, drop-then-quantize (so many parts first, then the best
levels for the rest) and quantize-then-drop (one level first, then as many parts as do not fit). All are candidates
for the first parent, whose real scores choose. The cost is a knapsack for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from evopress.core.profile import DROP, Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError
from evopress.search.baselines.knapsack import Errors, error_table, knapsack, spend_greedily
from evopress.search.moves.bundles import drop_bundle
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices


def sequences(space: SearchSpace, errors: Errors) -> tuple[Profile, ...]:
    """The different profiles of both orders that meet the budget, bits alone and drops alone among them."""
    order = _cheapest_first(space, errors)
    first = [found for count in _counts(len(order)) if (found := drop_then_quantize(space, errors, order[:count]))]
    dear = [profile for profile in space.uniforms() if space.cost(profile) > space.budget]
    then = [found for profile in dear if (found := _drop_until_it_fits(space, errors, order, space.encode(profile)))]
    return tuple(dict.fromkeys([*first, *then]))


def drop_then_quantize(space: SearchSpace, errors: Errors, gone: Sequence[int]) -> Profile | None:
    """The knapsack of what is left without the bundles at the positions `gone`; None where that cannot fit.

    With none gone it is that of levels alone.
    """
    inside = {unit for at in gone for unit in space.bundles[at]}
    kept = [unit for unit in range(len(space.units)) if unit not in inside]
    units = tuple(
        replace(
            space.units[unit],
            levels=space.units[unit].levels[space.floors[unit] :],
            members=tuple(replace(one, levels=one.levels[space.floors[unit] :]) for one in space.units[unit].members),
        )
        for unit in kept
    )
    try:
        rest = SearchSpace(units, space.budget, (tuple(range(len(units))),))
    except BudgetError:
        return None
    chosen = dict(knapsack(rest, errors).items())
    return Profile(space.named, tuple(chosen.get(name, DROP) for name in space.named))


def _drop_until_it_fits(space: SearchSpace, errors: Errors, order: Sequence[int], levels: Indices) -> Profile | None:
    """Drop bundles in order until the profile fits, then raise what removes most error for its cost."""
    draft = Draft(space, levels)
    for at in order[:-1]:
        if draft.fits:
            break
        drop_bundle(draft, space.bundles[at])
    if not draft.fits:
        return None
    return space.decode(spend_greedily(space, error_table(space, errors), draft.levels))


def _cheapest_first(space: SearchSpace, errors: Errors) -> list[int]:
    """The bundles in order of the harm of dropping them for what that frees."""

    def harm(bundle: Sequence[int]) -> float:
        worse = 0.0
        for name in (name for unit in bundle for name in space.units[unit].named):
            own = errors[name]
            worse += own[DROP] - min(own[level] for level in own if level != DROP)
        freed = sum(space.costs[unit][-1] for unit in bundle)
        return worse / freed if math.isfinite(worse) else math.inf

    return sorted(range(len(space.bundles)), key=lambda at: harm(space.bundles[at]))


def _counts(bundles: int) -> list[int]:
    """How many bundles are dropped first: none, 1, 2, 3, 4, 6, 8, 12, 16, ... as long as one stays."""
    steps = accumulate([0, 1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16])
    return [count for count in steps if count < bundles]
