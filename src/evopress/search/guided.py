"""Switches that a surrogate proposes, so that offspring of many switches are worth scoring.

A pool of blind offspring rarely holds one whose four or eight switches are all good; here each switch is the best of a
few random ones. It stays random enough to differ each time and to try what the surrogate does not believe in. One call
is linear in the number of units, like any mutation.
"""

from __future__ import annotations

from random import Random

from evopress.search.draft import Draft
from evopress.search.mutation import Indices, Mutation
from evopress.search.surrogate import Surrogate
from evopress.space import SearchSpace


def guided(surrogate: Surrogate, *, switches: int = 4, tries: int = 6) -> Mutation:
    """A mutation of 1 to `switches` switches inside one exchange group, each the best of `tries` by prediction.

    A switch raises the unit that gains most for its cost and then lowers those that lose least until the budget is met;
    no unit goes both ways. What is left at the end is spent on random others of the group.
    """

    def mutate(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
        draft = Draft(space, parent)
        at = rng.choices(range(len(space.groups)), weights=[len(group) for group in space.groups])[0]
        group = space.groups[at]
        if space.split is not None:
            draft.narrow(group, space.split[at])
        raised, lowered = set[int](), set[int]()
        for _ in range(rng.randint(1, switches)):
            before = list(draft.levels), draft.cost
            if not _switch(draft, surrogate, group, (raised, lowered), tries, rng):
                draft.levels, draft.cost = before
                break
        draft.fill([unit for unit in group if unit not in lowered], rng)
        child = tuple(draft.levels)
        return child if child != parent and draft.fits else None

    return mutate


def _switch(
    draft: Draft, surrogate: Surrogate, group: Indices, moved: tuple[set[int], set[int]], tries: int, rng: Random
) -> bool:
    """Raise one unit and lower others until the draft fits; False, with the draft in between, if it never does."""
    raised, lowered = moved

    def gain(unit: int) -> float:
        return surrogate.effect(unit, draft.levels[unit]) / draft.step_up(unit)

    def loss(unit: int) -> float:
        return -surrogate.effect(unit, draft.levels[unit] - 1) / draft.step_down(unit)

    up = _drawn([unit for unit in draft.raisable(group) if unit not in lowered], tries, rng)
    if not up:
        return False
    unit = min(up, key=gain)
    raised.add(unit)
    draft.up(unit)
    while not draft.fits:
        down = _drawn([unit for unit in draft.lowerable(group) if unit not in raised], tries, rng)
        if not down:
            return False
        unit = min(down, key=loss)
        lowered.add(unit)
        draft.down(unit)
    return True


def _drawn(pool: list[int], count: int, rng: Random) -> list[int]:
    return pool if len(pool) <= count else rng.sample(pool, count)
