"""Moves for depth, where neighbours can stand in for each other and a block's parts are often dropped together.

    slide    the drop of a unit moves to its neighbour of the same role
    blocks   all units in a run of blocks are dropped, and as much is kept again elsewhere, or the reverse

Both work in any space (up and down by one level), linear in the number of units.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from evopress.core.space import SearchSpace
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices, Mutation, free_switches


def depth_moves() -> dict[str, Mutation]:
    """What adaptive moves choose among where units are dropped: both, and one switch."""
    return {"switch": free_switches, "slide": slide, "blocks": blocks}


def slide(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Two neighbours of one role exchange levels; None when none differ, or when the exchange would not fit."""
    pairs = [
        pair
        for roles in space.roles
        for blocks in roles.values()
        for lower, upper in pairwise(blocks)
        for pair in zip(lower, upper, strict=False)
        if parent[pair[0]] != parent[pair[1]]
    ]
    if not pairs:
        return None
    one, other = rng.choice(pairs)
    levels = list(parent)
    levels[one], levels[other] = parent[other], parent[one]
    child = tuple(levels)
    alike = len(space.costs[one]) == len(space.costs[other])
    return child if alike and space.fits(child) else None


def blocks(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Lower all units in a run of consecutive blocks and raise random others, or the reverse.

    A run is an eighth of the blocks long at most, shorter ones are likelier. Each part of a split budget is met alone,
    so attention and MLPs of the run move together although they do not trade.
    """
    numbers = sorted({unit.block for unit in space.units})
    longest = max(1, len(numbers) // 8)
    length = min(rng.randint(1, longest), rng.randint(1, longest))
    first = rng.randrange(len(numbers) - length + 1)
    run = set(numbers[first : first + length])
    down = rng.random() < 0.5
    draft = Draft(space, parent)
    for units, most in space.limits:
        draft.narrow(units, most)
        inside = [unit for unit in units if space.units[unit].block in run]
        outside = [unit for unit in units if space.units[unit].block not in run]
        for unit in draft.lowerable(inside) if down else draft.raisable(inside):
            (draft.down if down else draft.up)(unit)
        draft.shrink(outside, rng)
        if not draft.fits:
            return None
        draft.fill(outside, rng)
        draft.fill(inside, rng)  # where the run holds more than the others have to give back
    child = tuple(draft.levels)
    return child if child != parent else None
