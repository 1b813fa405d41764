"""How an offspring differs from its parent.

A mutation is a function of (space, parent's level indices, random generator). It returns the level indices of another
profile that fits the budget, or None when what it drew leads nowhere; then the strategy draws again. It never returns
the parent. One call is linear in the number of units.

    equal_switches   Algorithm 1: one unit up, another of its group down, both by a step of the same cost
    free_switches    one unit up, others down until it fits (or the reverse), then the freed budget is spent
    bands            one role in a run of consecutive blocks up or down, paid for by another role
    mixed            one of the two, by chance
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from evopress.search.draft import Draft, drop
from evopress.space import SearchSpace

Indices = tuple[int, ...]
Mutation = Callable[[SearchSpace, Indices, Random], Indices | None]


def equal_switches(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Algorithm 1's mutation: `min(U1, U2)` level switches that leave the cost exactly as it was.

    A switch raises one unit and lowers another one of the same exchange group by a step of the same cost. A group is
    drawn in proportion to its number of units; a group without such a pair is drawn again without it.
    """
    draft = Draft(space, parent)
    for _ in range(_switches(rng)):
        pair = _equal_pair(space, draft, rng)
        if pair is None:
            return None
        raised, lowered = pair
        draft.up(raised)
        draft.down(lowered)
    return _offspring(draft, parent)


def free_switches(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """`min(U1, U2)` level switches between units whose steps need not cost the same.

    Half of the switches raise a random unit and lower random others until the budget is met, half lower a random unit.
    Both then spend what is left on random other units of the group until no step fits.
    """
    draft = Draft(space, parent)
    for _ in range(_switches(rng)):
        group = space.groups[_draw_group(space, rng)]
        if not (_raise_first if rng.random() < 0.5 else _lower_first)(draft, group, rng):
            return None
    return _offspring(draft, parent)


def bands(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Move all units of one role in a run of consecutive blocks by one level, up or down.

    The length of the run is log-uniform between one block and all. Another role's band pays (or gets what was freed)
    as far as needed, then single units do, and what is left is spent until no step fits. All of it stays inside one
    exchange group.
    """
    draft = Draft(space, parent)
    at = _draw_group(space, rng)
    group, roles = space.groups[at], space.roles[at]
    role = rng.choice(list(roles))
    band = _run(roles[role], rng)
    others = [other for other in roles if other != role]
    partner = _run(roles[rng.choice(others)], rng) if others else []
    rng.shuffle(partner)
    done = (_raise_band if rng.random() < 0.5 else _lower_band)(draft, group, band, partner, rng)
    return _offspring(draft, parent) if done else None


def mixed(p_band: float, single: Mutation = free_switches) -> Mutation:
    """A mutation that is `bands` with probability `p_band` and `single` otherwise."""

    def mutate(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
        return (bands if rng.random() < p_band else single)(space, parent, rng)

    return mutate


def _switches(rng: Random) -> int:
    """min(U1, U2) of two uniform draws from {1, 2, 3}: 1, 2, 3 with probabilities 5/9, 3/9, 1/9."""
    return min(rng.randint(1, 3), rng.randint(1, 3))


def _offspring(draft: Draft, parent: Indices) -> Indices | None:
    child = tuple(draft.levels)
    return child if child != parent and draft.fits else None


def _draw_group(space: SearchSpace, rng: Random) -> int:
    """A group's position, in proportion to its number of units."""
    if len(space.groups) == 1:
        return 0
    return rng.choices(range(len(space.groups)), weights=[len(group) for group in space.groups])[0]


def _equal_pair(space: SearchSpace, draft: Draft, rng: Random) -> tuple[int, int] | None:
    """A unit to raise and another one to lower; None when no group has such a pair."""
    groups = list(space.groups)
    while groups:
        at = rng.choices(range(len(groups)), weights=[len(group) for group in groups])[0]
        group = groups.pop(at)
        freed = draft.freed(group)
        raisable = draft.raisable(group)
        while raisable:
            raised = drop(raisable, rng.randrange(len(raisable)))
            lowered = [unit for unit in freed.get(draft.step_up(raised), ()) if unit != raised]
            if lowered:
                return raised, rng.choice(lowered)
    return None


def _raise_first(draft: Draft, group: Indices, rng: Random) -> bool:
    raisable = draft.raisable(group)
    if not raisable:
        return False
    raised = rng.choice(raisable)
    draft.up(raised)
    lowered = draft.shrink([unit for unit in group if unit != raised], rng)
    _spend(draft, group, lowered, rng)
    return draft.fits


def _lower_first(draft: Draft, group: Indices, rng: Random) -> bool:
    lowerable = draft.lowerable(group)
    if not lowerable:
        return False
    lowered = rng.choice(lowerable)
    draft.down(lowered)
    return _spend(draft, group, [lowered], rng)


def _raise_band(draft: Draft, group: Indices, band: list[int], partner: list[int], rng: Random) -> bool:
    raised = draft.raisable(band)
    for unit in raised:
        draft.up(unit)
    lowered: list[int] = []
    for unit in draft.lowerable(partner):
        if draft.fits:
            break
        draft.down(unit)
        lowered.append(unit)
    fixed = set(raised)
    lowered += draft.shrink([unit for unit in group if unit not in fixed], rng)
    _spend(draft, group, lowered, rng)
    return bool(raised) and draft.fits


def _lower_band(draft: Draft, group: Indices, band: list[int], partner: list[int], rng: Random) -> bool:
    lowered = draft.lowerable(band)
    for unit in lowered:
        draft.down(unit)
    raised = False
    for unit in partner:
        if draft.affordable((unit,)):
            draft.up(unit)
            raised = True
    return _spend(draft, group, lowered, rng) or raised


def _spend(draft: Draft, group: Indices, lowered: list[int], rng: Random) -> bool:
    """Fill with units that were not just lowered; only what these cannot use goes back to those that were.

    Returns whether others could use any: if not, and nothing else was raised, filling would only undo the lowering.
    """
    kept = set(lowered)
    used = draft.fill([unit for unit in group if unit not in kept], rng)
    draft.fill(lowered, rng)
    return used


def _run(blocks: Sequence[Sequence[int]], rng: Random) -> list[int]:
    """The units of a run of consecutive blocks whose length is log-uniform in 1..len(blocks)."""
    length = min(len(blocks), int(math.exp(rng.random() * math.log(len(blocks) + 1))))
    first = rng.randrange(len(blocks) - length + 1)
    return [unit for block in blocks[first : first + length] for unit in block]
