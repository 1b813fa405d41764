"""Moves across families: a part of the model is dropped, or comes back, and the rest of the profile makes up for it.

    drop      a bundle is dropped, and what it frees raises others
    restore   a dropped bundle comes back, and others are lowered to pay for it
    trade     a dropped bundle comes back, and another one goes in its place

All work in spaces with bundles and give nothing in others. Linear in the number of units for each level that is moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from evopress.core.bundles import dropped
from evopress.core.space import SearchSpace
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices, Mutation, free_switches


def bundle_moves() -> dict[str, Mutation]:
    """What adaptive moves choose among beside switches of levels; half of the time each has a switch behind it.

    Levels that suit one set of drops seldom suit another.
    """
    moves: dict[str, Mutation] = {"drop": drop_and_spend, "restore": restore_and_save, "trade": trade_drops}
    return {name: _with_a_switch(move) for name, move in moves.items()}


def _with_a_switch(move: Mutation) -> Mutation:
    def mutate(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
        child = move(space, parent, rng)
        if child is None or rng.random() < 0.5:
            return child
        switched = free_switches(space, child, rng)
        return child if switched is None or switched == parent else switched

    return mutate


def drop_and_spend(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Drop a bundle and raise others until nothing more fits; None where only one is left."""
    kept = _kept(space, parent)
    if len(kept) < 2:
        return None
    draft = Draft(space, parent)
    drop_bundle(draft, space.bundles[rng.choice(kept)])
    draft.fill(range(len(space.units)), rng)
    return tuple(draft.levels)


def restore_and_save(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """Bring a dropped bundle back and lower others until it fits; None where none is dropped, or it cannot be paid."""
    gone = dropped(space.bundles, parent)
    if not gone:
        return None
    draft = Draft(space, parent)
    back = space.bundles[rng.choice(gone)]
    _restore(space, draft, back, space.bundles[rng.choice(_kept(space, parent))])
    return _balanced(space, draft, back, rng)


def trade_drops(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
    """A dropped bundle comes back with the levels of one that goes; half of the time these are next to each other."""
    gone, kept = dropped(space.bundles, parent), _kept(space, parent)
    if not gone:
        return None
    at = rng.choice(gone)
    going = rng.choice(kept) if rng.random() < 0.5 else min(kept, key=lambda other: abs(other - at))
    draft, back = Draft(space, parent), space.bundles[at]
    _restore(space, draft, back, space.bundles[going])
    drop_bundle(draft, space.bundles[going])
    return _balanced(space, draft, back, rng)


def drop_bundle(draft: Draft, bundle: Sequence[int]) -> None:
    """Drop all units of a bundle."""
    for unit in bundle:
        draft.put(unit, 0)


def shed(space: SearchSpace, draft: Draft, rng: Random) -> None:
    """Drop random bundles until what is left could fit if all of it were at its lowest levels."""
    kept = _kept(space, draft.levels)
    while len(kept) > 1 and _least(space, draft.levels) > draft.limit:
        drop_bundle(draft, space.bundles[kept.pop(rng.randrange(len(kept)))])


def _kept(space: SearchSpace, levels: Sequence[int]) -> list[int]:
    return [at for at, bundle in enumerate(space.bundles) if levels[bundle[0]]]


def _least(space: SearchSpace, levels: Sequence[int]) -> int:
    return sum(costs[min(level, floor)] for costs, level, floor in zip(space.costs, levels, space.floors, strict=True))


def _restore(space: SearchSpace, draft: Draft, bundle: Sequence[int], like: Sequence[int]) -> None:
    """Keep a bundle again, at the levels of another one as far as it has them."""
    for place, unit in enumerate(bundle):
        level = draft.levels[like[place % len(like)]]
        draft.put(unit, max(1, min(level, len(space.costs[unit]) - 1)))


def _balanced(space: SearchSpace, draft: Draft, back: Sequence[int], rng: Random) -> Indices | None:
    """Lower others, then what came back, until the draft fits; then raise what can be raised."""
    others = [unit for unit in range(len(space.units)) if unit not in back]
    lowered = draft.shrink(others, rng) + draft.shrink(back, rng)
    if not draft.fits:
        return None
    kept = set(lowered)
    draft.fill([unit for unit in range(len(space.units)) if unit not in kept], rng)
    draft.fill(lowered, rng)
    return tuple(draft.levels)
