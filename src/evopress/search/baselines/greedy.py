"""Baseline: greedy, one measured single change at a time (for depth: SLEB, Song et al. 2024, arXiv 2402.09025).

From the most expensive profile each round scores every profile that is one level lower in one unit, all on one
minibatch, and takes the change that hurts least per cost, until the budget is met. Where steps differ, budget may be
left: then rounds of single raises spend it as long as one helps. Costs one score for each unit and round, which for k
drops among n units is about k * n; `Greedy.effort` states it before the start, and beyond the limit it is refused.
For hundreds of units with many levels `per_round` takes several changes from one round; 1 is the method as published.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ScheduleError
from evopress.search.effort import Effort
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices
from evopress.search.planned import Plan, Planned, ranked
from evopress.search.starts.rounding import nearest
from evopress.search.types import Batch


class Greedy(Planned):
    """The search from `start`, by default every unit at its highest level. ScheduleError beyond `limit` scores.

    Each round is a generation: a batch of the current profile and its single changes. The last batch scores the
    result on a fresh minibatch. Until then `best` is the profile nearest to `start` that fits.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        tokens: int,
        start: Profile | None = None,
        per_round: int = 1,
        limit: int = 10_000,
    ) -> None:
        if per_round < 1:
            raise ScheduleError(f"{per_round} changes a round cannot be taken; ask for 1 or more")
        self._space, self._tokens, self._per_round = space, tokens, per_round
        self._start = tuple(len(unit.levels) - 1 for unit in space.units) if start is None else space.encode(start)
        self.effort = Effort(most_scores(space, self._start, per_round), tokens)
        if self.effort.profiles > limit:
            raise ScheduleError(
                f"greedy takes up to {self.effort.profiles} scores, the limit is {limit}; start nearer to the budget, "
                f"take more than {per_round} changes a round, or raise the limit"
            )
        wanted = [float(costs[level]) for costs, level in zip(space.costs, self._start, strict=True)]
        super().__init__(space.decode(nearest(space, wanted)))

    def plan(self) -> Plan:
        """Rounds of lowering, then of raising, then the score of the result."""
        draft, generation = Draft(self._space, self._start), 0
        while units := _too_high(self._space, draft):
            yield from self._lower(generation, draft, units)
            generation += 1
        while units := _affordable(self._space, draft):
            before = draft.cost
            yield from self._raise(generation, draft, units)
            generation += 1
            if draft.cost == before:
                break
        self.best = self._space.decode(draft.levels)
        scores = yield Batch(generation, 0, self._tokens, (self.best,))
        self.choose((self.best,), scores)

    def _lower(self, generation: int, draft: Draft, units: Sequence[int]) -> Plan:
        """Take the changes that hurt least per cost; one that helps counts whole, whatever it frees."""
        harms = yield from self._measure(generation, draft, units, -1)
        freed = map(draft.step_down, units)
        rates = [harm / cost if harm > 0 else harm for harm, cost in zip(harms, freed, strict=True)]
        taken = 0
        for at in ranked(rates):
            if taken < self._per_round and units[at] in _too_high(self._space, draft):
                draft.down(units[at])
                taken += 1

    def _raise(self, generation: int, draft: Draft, units: Sequence[int]) -> Plan:
        """Take the changes that help most per cost, none that does not help."""
        harms = yield from self._measure(generation, draft, units, 1)
        rates = [harm / cost for harm, cost in zip(harms, map(draft.step_up, units), strict=True)]
        taken = 0
        for at in ranked(rates):
            if taken < self._per_round and -math.inf < rates[at] < 0 and units[at] in _affordable(self._space, draft):
                draft.up(units[at])
                taken += 1

    def _measure(
        self, generation: int, draft: Draft, units: Sequence[int], by: int
    ) -> Generator[Batch, list[float], list[float]]:
        """How much worse the score gets when each of `units` alone moves `by` one level."""
        now = draft.levels
        changed = [[*now[:unit], now[unit] + by, *now[unit + 1 :]] for unit in units]
        profiles = tuple(self._space.decode(levels) for levels in (now, *changed))
        current, *scores = yield Batch(generation, 0, self._tokens, profiles)
        self.accepted = False
        if not math.isfinite(current):  # everything that is finite is better, and comparable
            current = max(filter(math.isfinite, scores), default=0.0) + 1
        return [score - current for score in scores]


def most_scores(space: SearchSpace, start: Indices, per_round: int = 1) -> int:
    """How many scores `Greedy` takes at most; exact where k of n units with two levels are dropped, one a round."""
    alive = steps_left = lowered = raised = 0
    for units, most in space.limits:
        above = sum(space.costs[unit][start[unit]] for unit in units) - most
        below = [step for unit in units for step in space.steps[unit][: start[unit]]]
        if above > 0:
            alive += sum(start[unit] > 0 for unit in units)
            steps_left += len(below)
            lowered += min(len(below), -(-above // min(below)))
        spare = max(below) - 1 if above > 0 else -above  # the last step down may free more than was needed
        steps = sorted(step for unit in units for step in space.steps[unit])
        raised += min(len(steps), spare // steps[0]) if steps else 0
    rounds = lowered if per_round == 1 else min(lowered, lowered // per_round + max(start))
    return sum(min(alive, steps_left - i) + 1 for i in range(rounds)) + raised * (len(space.units) + 1) + 1


def _too_high(space: SearchSpace, draft: Draft) -> list[int]:
    """The units that can be lowered, of those that cost too much together."""
    found: list[int] = []
    for units, most in space.limits:
        draft.narrow(units, most)
        if not draft.fits:
            found += draft.lowerable(units)
    return found


def _affordable(space: SearchSpace, draft: Draft) -> list[int]:
    """The units that can be raised within their limit."""
    found: list[int] = []
    for units, most in space.limits:
        draft.narrow(units, most)
        found += draft.affordable(units)
    return found
