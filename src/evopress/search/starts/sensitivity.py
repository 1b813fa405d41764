"""Start profiles from a second-order expansion of the score around one profile, whoever measured it.

The knapsack takes the level with the least slope + gamma * curvature, summed over units. The sums overstate what a
change gains: the numbers are noisy, the best sum is the luckiest one, and units harm each other. A larger gamma trusts
them less and stays closer to the profile of the expansion. No gamma is best for every budget, so several profiles are
made and the real score chooses; which ones are worth a score depends on how finely levels divide a weight. The cost is
one knapsack for each gamma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError
from evopress.search.baselines.knapsack import Errors, knapsack

GAMMAS: tuple[float, ...] = (1.0, 1.4, 2.0, 3.0)


def expansion_point(space: SearchSpace) -> Profile:
    """Where to expand: the cheapest uniform profile that costs the budget or more, else the dearest one.

    It is at the budget where a level is, and above it otherwise: from there most units need only move down.
    BudgetError when the units have no common level.
    """
    profiles = space.uniforms()
    if not profiles:
        raise BudgetError(f"the {len(space.units)} units have no level in common; there is no uniform profile")
    return next((profile for profile in profiles if space.cost(profile) >= space.budget), profiles[-1])


def sensitivity_starts(
    space: SearchSpace, slope: Errors, curvature: Errors, gammas: Sequence[float] = GAMMAS
) -> tuple[Profile, ...]:
    """The different profiles that minimise slope + gamma * curvature within the budget, one gamma after the other.

    ProfileError when a number is missing. A level whose number is not finite is avoided.
    """
    return tuple(dict.fromkeys(knapsack(space, distrusted(slope, curvature, gamma)) for gamma in gammas))


def distrusted(slope: Errors, curvature: Errors, gamma: float) -> Errors:
    """slope + gamma * curvature, of each unit above its least."""
    return {unit: _errors(slope[unit], curvature[unit], gamma) for unit in slope}


def _errors(slope: Mapping[str, float], curvature: Mapping[str, float], gamma: float) -> dict[str, float]:
    """slope + gamma * curvature, shifted so that the least is 0: errors, as the knapsack's greedy end expects."""
    sums = {level: slope[level] + gamma * curvature[level] for level in slope}
    least = min((value for value in sums.values() if math.isfinite(value)), default=0.0)
    return {level: value - least for level, value in sums.items()}
