"""How an offspring differs from its parent.

A mutation is a function of (space, parent's level indices, random generator). It returns the level indices of another
profile that fits the budget, or None when what it drew leads nowhere; then the strategy draws again. It never returns
the parent. One call is linear in the number of units.

    equal_switches   Algorithm 1: one unit up, another of its group down, both by a step of the same cost
    free_switches    one unit up, others down until it fits (or the reverse), then the freed budget is spent
    bands            one role up and another down, each in a run of consecutive blocks
    roles            the same in all blocks
    thirds           the same in a third of the blocks
    mixed            `bands` or single switches, by chance
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from evopress.core.space import SearchSpace
from evopress.search.moves.draft import Draft, drop

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
        group = _narrowed(space, draft, _draw_group(space, rng))
        if not (_raise_first if rng.random() < 0.5 else _lower_first)(draft, group, rng):
            return None
    return _offspring(draft, parent)


def bands(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """`min(U1, U2)` trades: raise one role and lower another, each in a run of consecutive blocks.

    A run is all blocks, a half, a quarter, ... or one block long, each as likely; see `_trade`.
    """
    return _trades(space, parent, rng, _run)


def roles(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """`bands` over all blocks: raise a whole role by one level and lower another.

    There are few such moves and their effects are large, so few tokens tell the good ones: they open a search.
    """
    return _trades(space, parent, rng, _flat)


def thirds(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """`bands` over a third of the blocks: the first, the middle or the last. Finer than `roles`, still few moves."""
    return _trades(space, parent, rng, _third)


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


def _narrowed(space: SearchSpace, draft: Draft, at: int) -> Indices:
    """The units of a group, after the draft was narrowed to the group's part of a split budget."""
    if space.split is not None:
        draft.narrow(space.groups[at], space.split[at])
    return space.groups[at]


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


Run = Callable[[Sequence[Sequence[int]], Random], list[int]]


def _trades(space: SearchSpace, parent: Indices, rng: Random, run: Run) -> Indices | None:
    draft = Draft(space, parent)
    for _ in range(_switches(rng)):
        if not _trade(draft, space, rng, run):
            return None
    return _offspring(draft, parent)


def _trade(draft: Draft, space: SearchSpace, rng: Random, run: Run) -> bool:
    """Raise the units of one role's run and lower those of another's, as far as the smaller of both allows.

    Both lie in one exchange group. The cheaper run moves as a whole, the other one from one of its ends until the
    budget is met; what is left is spent until no step fits. In a group of one role the units outside the run, in
    random order, are the other side.
    """
    at = _draw_group(space, rng)
    group, by_role = _narrowed(space, draft, at), space.roles[at]
    first, *others = rng.sample(list(by_role), min(2, len(by_role)))
    raised = draft.raisable(run(by_role[first], rng))
    if others:
        lowered = draft.lowerable(run(by_role[others[0]], rng))
    else:
        inside = set(raised)
        lowered = draft.lowerable(unit for unit in group if unit not in inside)
        rng.shuffle(lowered)
    for side in (raised, lowered):
        if others and rng.random() < 0.5:
            side.reverse()
    if not raised or not lowered:
        return False
    if sum(map(draft.step_up, raised)) <= sum(map(draft.step_down, lowered)):
        lowered = _raise_all(draft, raised, lowered)
    else:
        _lower_all(draft, raised, lowered)
    _spend(draft, group, lowered, rng)
    return draft.fits


def _raise_all(draft: Draft, raised: list[int], lowered: list[int]) -> list[int]:
    """Raise all of the one side, lower the other in order until it fits; returns those that were lowered."""
    for unit in raised:
        draft.up(unit)
    for count, unit in enumerate(lowered):
        if draft.fits:
            return lowered[:count]
        draft.down(unit)
    return lowered


def _lower_all(draft: Draft, raised: list[int], lowered: list[int]) -> None:
    """Lower all of the one side, raise the other in order while it fits."""
    for unit in lowered:
        draft.down(unit)
    for unit in raised:
        if draft.affordable((unit,)):
            draft.up(unit)


def _spend(draft: Draft, group: Indices, lowered: list[int], rng: Random) -> bool:
    """Fill with units that were not just lowered; only what these cannot use goes back to those that were.

    Returns whether others could use any: if not, and nothing else was raised, filling would only undo the lowering.
    """
    kept = set(lowered)
    used = draft.fill([unit for unit in group if unit not in kept], rng)
    draft.fill(lowered, rng)
    return used


def _flat(blocks: Sequence[Sequence[int]], rng: Random) -> list[int]:
    """The units of all blocks."""
    return [unit for block in blocks for unit in block]


def _third(blocks: Sequence[Sequence[int]], rng: Random) -> list[int]:
    """The units of one third of the blocks."""
    ends = [round(len(blocks) * part / 3) for part in range(4)]
    part = rng.randrange(3)
    return _flat(blocks[ends[part] : ends[part + 1]], rng)


def _run(blocks: Sequence[Sequence[int]], rng: Random) -> list[int]:
    """The units of a run of consecutive blocks; its length is all of them, a half, a quarter, ... or one."""
    length = len(blocks) >> rng.randrange(len(blocks).bit_length())
    first = rng.randrange(len(blocks) - length + 1)
    return [unit for block in blocks[first : first + length] for unit in block]
