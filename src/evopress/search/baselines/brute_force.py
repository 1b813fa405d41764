"""Baseline: every profile that spends the budget. For small spaces, where it proves what the optimum is.

A profile is full when no unit could be raised by a level within what it leaves of the budget. Full profiles are what
searches propose (with equal steps: exactly those that cost the budget), so they are what is enumerated; 15 pairs of
blocks of which 7 are dropped have 6435 of them. How many there are is counted without making them, by dynamic
programming over costs: `BruteForce.effort` states count and time, and a space with more than the limit is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from evopress.core.space import SearchSpace
from evopress.errors import ScheduleError
from evopress.search.moves.mutation import Indices
from evopress.search.planned import OneBatch

MAX_ADDITIONS = 20_000_000
"""The largest table of counts, in additions of whole numbers: about a second."""


def all_profiles(space: SearchSpace, *, full: bool = False) -> Iterator[Indices]:
    """The level indices of every profile within the budget, or of every full one.

    In lexicographic order, group by group where the budget is split. Every step of the enumeration leads to at least
    one profile (with `full`: where all steps cost the same), so the first N take O(N * units) however large the space.
    """
    order = [unit for units, _ in space.limits for unit in units]
    place = sorted(range(len(order)), key=order.__getitem__)
    for chosen in _combine(space.parts(), full):
        yield tuple(chosen[at] for at in place)


def count_profiles(space: SearchSpace, *, full: bool = False) -> int | None:
    """How many profiles `all_profiles` yields, exactly; None where costs are so odd that the table is too large.

    >>> from evopress.core.profile import Level, Unit
    >>> from evopress.core.space import make_space
    >>> pairs = [Unit(f"{i}", i, "pair", 1, (Level("drop", 0), Level("keep", 1))) for i in range(15)]
    >>> space = make_space(pairs, average="8/15", exchange="any")
    >>> count_profiles(space, full=True), count_profiles(space)  # 15 choose 7; 7 or more of 15
    (6435, 22819)
    """
    counts = [_count(part, full) for part in space.parts()]
    return None if None in counts else math.prod(count or 0 for count in counts)


class BruteForce(OneBatch):
    """Score all full profiles of a space as one batch; ScheduleError when there are more than `limit`.

    `full=False` takes in also those that leave budget unspent.
    """

    def __init__(self, space: SearchSpace, *, tokens: int, limit: int = 10_000, full: bool = True) -> None:
        _require_at_most(limit, space, full)
        super().__init__([space.decode(indices) for indices in all_profiles(space, full=full)], tokens=tokens)


def _require_at_most(limit: int, space: SearchSpace, full: bool) -> None:
    count = count_profiles(space, full=full)
    if count is None:
        count, shown = len(list(islice(all_profiles(space, full=full), limit + 1))), f"more than {limit}"
    else:
        shown = str(count) if count < 10**12 else f"about 10^{len(str(count)) - 1}"
    if count > limit:
        raise ScheduleError(
            f"{shown} profiles meet the budget, brute force scores at most {limit}; use a coarser space or raise it"
        )


def _combine(parts: Sequence[SearchSpace], full: bool) -> Iterator[Indices]:
    """All combinations of the parts' profiles, lazily."""
    if not parts:
        yield ()
        return
    for head in _profiles(parts[0], full):
        for tail in _combine(parts[1:], full):
            yield (*head, *tail)


def _profiles(space: SearchSpace, full: bool) -> Iterator[Indices]:
    """`all_profiles` of a space whose budget is not split.

    `room` is what may still be spent above the cheapest levels, `step` the least cost of raising a chosen unit. When
    even the highest levels of all units to come leave `step` unspent, no full profile follows.
    """
    spans = [costs[-1] - costs[0] for costs in space.costs]
    rest = [sum(spans[unit + 1 :]) for unit in range(len(spans))]

    def extend(chosen: Indices, room: int, step: float) -> Iterator[Indices]:
        unit = len(chosen)
        if unit == len(spans):
            yield chosen
            return
        costs, steps = space.costs[unit], space.steps[unit]
        for level, cost in enumerate(costs):
            left = room - (cost - costs[0])
            if left < 0:
                break
            least = min(step, steps[level]) if level < len(steps) else step
            if not full or left - rest[unit] < least:
                yield from extend((*chosen, level), left, least)

    return extend((), space.budget - space.lowest, math.inf)


def _count(space: SearchSpace, full: bool) -> int | None:
    """`count_profiles` of a space whose budget is not split.

    counts[s][c] profiles of the units so far cost c quanta above the cheapest, and the least cost of raising one of
    them is the s-th smallest step; the last s stands for none that could be raised.
    """
    extras = [[cost - costs[0] for cost in costs] for costs in space.costs]
    quantum = math.gcd(*(extra for own in extras for extra in own)) or 1
    room = space.budget - space.lowest
    columns = min(room, space.highest - space.lowest) // quantum + 1
    kinds = sorted({step for own in space.steps for step in own}) if full else []
    if columns * sum(map(len, extras)) * (len(kinds) + 1) > MAX_ADDITIONS:
        return None
    counts = np.zeros((len(kinds) + 1, columns), dtype=object)  # Python's whole numbers: there may be more than 2**64
    counts[-1, 0] = 1
    for own, steps in zip(extras, space.steps, strict=True):
        before, counts = counts, np.zeros_like(counts)
        for level, extra in enumerate(own):
            kind = kinds.index(steps[level]) if full and level < len(steps) else len(kinds)
            shift = min(extra // quantum, columns)
            moved = before[:, : columns - shift]
            counts[:kind, shift:] += moved[:kind]
            counts[kind, shift:] += moved[kind:].sum(axis=0)
    return sum(_spent(row, room, step, quantum) for row, step in zip(counts, [*kinds, math.inf], strict=True))


def _spent(row: npt.NDArray[np.object_], room: int, step: float, quantum: int) -> int:
    """How many of `row` leave less than `step` of the room."""
    first = 0 if step > room else (room - int(step)) // quantum + 1
    return int(row[first:].sum())
