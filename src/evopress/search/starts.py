"""Where a search starts (paper, Algorithm 1): the uniform profile where it meets the budget, else random profiles.

Random profiles are made by lowering random units from the level just above the target until the budget is met. Each
exchange group does so within its own share of the budget: the split between groups is that of the budget, not of
chance, because moves inside groups could never correct it. A profile costs about as much as a mutation.
"""

from __future__ import annotations

from random import Random

from evopress.profile import Profile
from evopress.search.draft import Draft
from evopress.search.mutation import Indices
from evopress.space import SearchSpace

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
    for group, share in zip(space.groups, space.shares, strict=True):
        draft.limit = draft.cost + share - sum(space.costs[unit][draft.levels[unit]] for unit in group)
        draft.shrink(group, rng)
        draft.fill(group, rng)
    draft.limit = space.budget
    draft.fill(range(len(space.units)), rng)
    return tuple(draft.levels)


def random_starts(space: SearchSpace, count: int, rng: Random) -> tuple[Profile, ...]:
    """Up to `count` different random profiles, at least one; fewer when the space does not yield more."""
    found: dict[Indices, None] = {}
    failures = 0
    while len(found) < count and failures < ATTEMPTS:
        before = len(found)
        found[random_start(space, rng)] = None
        failures = 0 if len(found) > before else failures + 1
    return tuple(space.decode(indices) for indices in found)


def default_starts(space: SearchSpace, rng: Random, count: int = 32) -> tuple[Profile, ...]:
    """The paper's start: the ceiling alone where it fits (an integer target whose level exists), else random ones."""
    top = ceiling(space)
    return (space.decode(top),) if space.fits(top) else random_starts(space, count, rng)
