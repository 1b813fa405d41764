"""Profiles to analyse: random ones from the whole space, not only from around its uniform profile.

The search's own random starts lower units from the level just above the budget's average, so for an integer target
there is but one, and none ever holds a level above it. A profile here begins with a random level for each unit. Each
costs about as much as a mutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from random import Random

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.search.moves.bundles import shed
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices
from evopress.search.starts.drawn import distinct
from evopress.search.types import Evaluate


def random_profiles(space: SearchSpace, count: int, rng: Random) -> tuple[Profile, ...]:
    """Up to `count` different profiles that meet the budget; fewer when the space does not yield more.

    Every unit draws a level; then in each exchange group random units are lowered until the group is within its share
    of the budget, and random units raised until no step fits.
    """
    return distinct(space, count, lambda: _random_profile(space, rng))


def worst(evaluate: Evaluate, profiles: Sequence[Profile], count: int, *, tokens: int) -> tuple[Profile, ...]:
    """The `count` profiles of the highest finite scores on one minibatch of `tokens` tokens, the worst first.

    >>> profiles = [Profile.of({"q": level}) for level in "234"]
    >>> [p["q"] for p in worst(lambda profiles, tokens: [0.5, 0.75, 0.25], profiles, 2, tokens=64)]
    ['3', '2']
    """
    scores = evaluate(profiles, tokens)
    usable = [i for i, score in enumerate(scores) if isfinite(score)]
    return tuple(profiles[i] for i in sorted(usable, key=lambda i: -scores[i])[:count])


def _random_profile(space: SearchSpace, rng: Random) -> Indices:
    levels = [rng.randrange(floor, len(unit.levels)) for unit, floor in zip(space.units, space.floors, strict=True)]
    draft = Draft(space, levels)
    shed(space, draft, rng)
    for group, share in zip(space.groups, space.shares, strict=True):
        draft.limit = draft.cost + share - sum(space.costs[unit][draft.levels[unit]] for unit in group)
        draft.shrink(group, rng)
        draft.fill(group, rng)
    return tuple(draft.levels)
