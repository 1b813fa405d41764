"""Where a search starts (paper, Algorithm 1): the uniform profile where it meets the budget, else random profiles.

Random profiles are made by lowering random units from the level just above the target until the budget is met; where
the levels are drop and keep these are random masks. Each exchange group does so within its own share of the budget: the
split between groups is that of the budget, not of chance, because moves inside groups could never correct it. A profile
costs about as much as a mutation.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError
from evopress.search.moves.bundles import shed
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices

ATTEMPTS = 100
"""How many draws in a row may give nothing new before a space counts as exhausted."""


def ceiling(space: SearchSpace) -> Indices:
    """Every unit at its cheapest level that costs at least the budget's average per weight, or at its highest."""
    total, budget = space.total_weights, space.budget
    return tuple(
        next((i for i, cost in enumerate(costs) if cost * total >= budget * unit.size), len(costs) - 1)
        for unit, costs in zip(space.units, space.costs, strict=True)
    )


def random_start(space: SearchSpace, rng: Random) -> Indices:
    """A random profile that fits: lowered from the ceiling until each group is within its share, then filled."""
    draft = Draft(space, ceiling(space))
    shed(space, draft, rng)
    for group, share in zip(space.groups, space.shares, strict=True):
        draft.narrow(group, share)
        draft.shrink(group, rng)
        draft.fill(group, rng)
    for units, most in space.limits:
        draft.narrow(units, most)
        draft.fill(units, rng)
    return tuple(draft.levels)


def random_starts(space: SearchSpace, count: int, rng: Random) -> tuple[Profile, ...]:
    """Up to `count` different random profiles, at least one; fewer when the space does not yield more."""
    return distinct(space, count, lambda: random_start(space, rng))


def distinct(space: SearchSpace, count: int, draw: Callable[[], Indices]) -> tuple[Profile, ...]:
    """Up to `count` different profiles out of a source of random ones; fewer when it repeats itself."""
    found: dict[Indices, None] = {}
    failures = 0
    while len(found) < count and failures < ATTEMPTS:
        before = len(found)
        found[draw()] = None
        failures = 0 if len(found) > before else failures + 1
    return tuple(space.decode(indices) for indices in found)


def default_starts(space: SearchSpace, rng: Random, count: int = 32) -> tuple[Profile, ...]:
    """The paper's start: one level everywhere where that meets the budget, else up to `count` random profiles.

    One level is the ceiling if it fits, or a uniform profile that costs the budget to the last weight: with sparsities,
    counts of weights are rounded and the ceiling of some units may be a level too high.
    """
    top = ceiling(space)
    if space.fits(top):
        return (space.decode(top),)
    try:
        uniform = space.uniform()
    except BudgetError:
        return random_starts(space, count, rng)
    return (uniform,) if space.cost(uniform) == space.budget else random_starts(space, count, rng)
