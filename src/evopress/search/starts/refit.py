"""A profile that was found for one budget, made to fit another: how a search starts from its neighbour's result.

Where cost has to go or to come is not known, so several answers are proposed and the real score chooses: the old costs
moved by one amount for each weight, the old costs scaled, and old profiles lowered or raised at random.
"""

from __future__ import annotations

from random import Random

from evopress.core.profile import Profile, Unit
from evopress.core.space import SearchSpace
from evopress.search.moves.bundles import shed
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices
from evopress.search.starts.drawn import distinct
from evopress.search.starts.rounding import nearest


def refit(space: SearchSpace, profile: Profile, rng: Random, count: int = 8) -> tuple[Profile, ...]:
    """Up to `count + 3` profiles that meet the budget and are near `profile`: itself if it fits, the last ones random.

    Levels are taken by name; where names are numbers (bits, steps of sparsity) the nearest one that a unit has.
    ProfileError when the profile is one of other units, or of levels that mean nothing here.

    >>> from evopress.core.profile import Level
    >>> from evopress.core.space import make_space
    >>> units = [Unit(f"u{i}", i, "u", 10, tuple(Level(str(b), 10 * b) for b in (2, 3, 4))) for i in range(3)]
    >>> old = Profile.of({"u0": "4", "u1": "2", "u2": "3"})  # 3 bits on average
    >>> [p.levels for p in refit(make_space(units, average=2.7, exchange="any"), old, Random(0), count=2)]
    [('3', '2', '3'), ('4', '2', '2')]
    """
    old = _levels(space, profile)
    own = [costs[level] for costs, level in zip(space.costs, old, strict=True)]
    proposed = [space.decode(old)] if space.fits(old) else []
    if space.bundles:
        return tuple(dict.fromkeys([*proposed, *distinct(space, count, lambda: _completed(space, old, rng))]))
    total = sum(own)
    shift = (space.budget - total) / space.total_weights
    moved = [cost + shift * unit.size for cost, unit in zip(own, space.units, strict=True)]
    scaled = [cost * space.budget / total if total else cost for cost in own]
    proposed += [space.decode(nearest(space, wanted)) for wanted in (moved, scaled)]
    return tuple(dict.fromkeys([*proposed, *distinct(space, count, lambda: _completed(space, old, rng))]))


def _completed(space: SearchSpace, old: Indices, rng: Random) -> Indices:
    """The old levels, lowered at random where they are too much and raised at random where there is room."""
    draft = Draft(space, old)
    shed(space, draft, rng)
    for units, most in space.limits:
        draft.narrow(units, most)
        draft.shrink(units, rng)
        draft.fill(units, rng)
    return tuple(draft.levels)


def _levels(space: SearchSpace, profile: Profile) -> Indices:
    choice = dict(profile.items())
    if choice.keys() != set(space.named):
        space.encode(profile)  # says which units are unknown or missing
    return tuple(_level(unit, choice[unit.named[0]]) for unit in space.units)


def _level(unit: Unit, name: str) -> int:
    names = [level.name for level in unit.levels]
    if name in names or not all(_number(own) for own in [name, *names]):
        return unit.index(name)
    return min(range(len(names)), key=lambda i: abs(int(names[i]) - int(name)))


def _number(name: str) -> bool:
    return name.removeprefix("-").isdigit()
