"""What surrounds a profile: the score change of single switches, and how far these changes still tell what follows.

A switch is Algorithm 1's: one unit up, another of its exchange group down, by steps of the same cost. First all of a
profile's switches are measured, or a random sample of them. Then offspring of several switches are scored and compared
with the sum of their switches' changes, which is what the neighbourhood predicts if switches do not interact.

Definitions. The changes come from one minibatch A. An offspring at distance d is the profile after d measured switches
that share no unit. All offspring of all distances are scored on two more minibatches, B and C, the profile with them.
At each distance, over its offspring:

    predicted   rank correlation of the sum of changes (A) with the scores, mean of that on B and that on C
    repeated    rank correlation of the scores on B with the scores on C: what a second measurement would predict
    better      share of the offspring that score better than the profile, mean of B and C
    change      median of score minus the profile's score, mean of B and C

At distance 1 `predicted` is one measurement against another, so it equals `repeated` up to chance; where it falls below
`repeated` with distance, switches interact. It costs (switches + 1) + 2 (offspring x distances + 1) scores, and all
profiles of a minibatch are scored in one call. 32 offspring tell a rank correlation to about 0.35, 100 to 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from statistics import mean, median

from evopress.analysis.statistics import FEWEST, finite, spearman
from evopress.analysis.table import Table
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search.moves.draft import Draft
from evopress.search.moves.mutation import Indices
from evopress.search.starts.drawn import ATTEMPTS
from evopress.search.types import Evaluate

DISTANCES = (1, 2, 4, 8, 16)

Trade = tuple[int, int]
"""A switch by unit indices: the one to raise, the one to lower."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A profile one switch away: the unit raised, the unit lowered, and the change of the score, below 0 if better."""

    raised: str
    lowered: str
    change: float


@dataclass(frozen=True, slots=True)
class Distance:
    """What the offspring at a distance of so many switches are like; the module's text defines the numbers."""

    switches: int
    offspring: int
    predicted: float
    repeated: float
    better: float
    change: float


@dataclass(frozen=True)
class Landscape:
    """The surroundings of a profile whose score is `score`.

    `neighbours` are those that were measured, of `existing` ones, the best first. What has no finite score is
    `left_out`. Distances at which fewer than three offspring could be made are missing.
    """

    tokens: int
    score: float
    existing: int
    left_out: int
    neighbours: tuple[Neighbour, ...]
    distances: tuple[Distance, ...]

    @property
    def better(self) -> float:
        """The share of the measured neighbours that score better than the profile."""
        return mean(neighbour.change < 0 for neighbour in self.neighbours)


def explore(
    space: SearchSpace,
    evaluate: Evaluate,
    rng: Random,
    profile: Profile,
    *,
    tokens: int,
    limit: int = 256,
    distances: Sequence[int] = DISTANCES,
    offspring: int = 32,
) -> Landscape:
    """Measure the neighbours of a profile, at most `limit` of them, and `offspring` at each of the distances.

    Each minibatch has `tokens` tokens; `evaluate` must draw a fresh one for each call. ConfigError when no two units
    of the profile can trade, no neighbour has a finite score, or a size is below 1.
    """
    if min(limit, offspring, *distances) < 1:
        raise ConfigError(f"limit {limit}, offspring {offspring} and distances {list(distances)} must be 1 or more")
    parent = space.encode(profile)
    pairs = single_switches(space, parent)
    if not pairs:
        raise ConfigError("the profile has no neighbours: no two units of an exchange group can trade equal steps")
    sample = pairs if len(pairs) <= limit else rng.sample(pairs, limit)
    score, *scores = evaluate([profile, *(space.decode(_child(space, parent, [pair])) for pair in sample)], tokens)
    known = {pair: other - score for pair, other in zip(sample, scores, strict=True) if isfinite(other - score)}
    if not known:
        raise ConfigError(f"none of {len(sample)} switches has a finite score; the profile's own score is {score}")
    found, lost = _decay(space, evaluate, parent, _draw(space, rng, parent, known, distances, offspring), tokens)
    neighbours = [Neighbour(space.names[up], space.names[down], change) for (up, down), change in known.items()]
    return Landscape(
        tokens=tokens,
        score=score,
        existing=len(pairs),
        left_out=len(sample) - len(known) + lost,
        neighbours=tuple(sorted(neighbours, key=lambda neighbour: neighbour.change)),
        distances=tuple(found),
    )


def single_switches(space: SearchSpace, levels: Indices) -> list[Trade]:
    """All single switches of level indices: (unit to raise, unit to lower), in the space's order."""
    draft = Draft(space, levels)
    found = []
    for group in space.groups:
        freed = draft.freed(group)
        for up in draft.raisable(group):
            found += [(up, down) for down in freed.get(draft.step_up(up), ()) if down != up]
    return found


def neighbour_table(found: Landscape, shown: int = 5) -> Table:
    """The best and the worst neighbours, at most `shown` of each."""
    ends = (*found.neighbours[:shown], *found.neighbours[shown:][-shown:])
    rows = tuple((at.raised, at.lowered, f"{at.change:+.4g}") for at in ends)
    title = (
        f"{len(found.neighbours)} of {found.existing} single switches, {found.tokens} tokens: "
        f"{found.better:.0%} improve the score of {found.score:.5g}"
    )
    return Table(title, ("raised", "lowered", "change"), rows)


def distance_table(found: Landscape) -> Table:
    """A row for each distance."""
    rows = tuple(
        (
            f"{at.switches}",
            f"{at.offspring}",
            f"{at.predicted:.3f}",
            f"{at.repeated:.3f}",
            f"{at.better:.0%}",
            f"{at.change:+.4g}",
        )
        for at in found.distances
    )
    headers = ("switches", "offspring", "predicted", "repeated", "better", "median change")
    return Table(f"rank correlation with distance, {found.tokens} tokens a minibatch", headers, rows)


@dataclass(frozen=True, slots=True)
class _Offspring:
    """A profile at a distance, and the sum of its switches' changes."""

    distance: int
    levels: Indices
    predicted: float


def _draw(
    space: SearchSpace,
    rng: Random,
    parent: Indices,
    changes: Mapping[Trade, float],
    distances: Sequence[int],
    count: int,
) -> list[_Offspring]:
    """Up to `count` different offspring at each distance, all of measured switches that share no unit."""
    drawn = []
    for distance in sorted(set(distances)):
        found: dict[Indices, float] = {}
        failures = 0
        while len(found) < count and failures < ATTEMPTS:
            trades = _disjoint(rng.sample(list(changes), len(changes)), distance)
            before = len(found)
            if len(trades) == distance:
                found.setdefault(_child(space, parent, trades), sum(changes[trade] for trade in trades))
            failures = 0 if len(found) > before else failures + 1
        drawn += [_Offspring(distance, levels, predicted) for levels, predicted in found.items()]
    return drawn


def _disjoint(trades: Sequence[Trade], count: int) -> list[Trade]:
    """The first `count` trades that share no unit; fewer when there are fewer."""
    taken: list[Trade] = []
    used: set[int] = set()
    for trade in trades:
        if len(taken) == count:
            break
        if used.isdisjoint(trade):
            taken.append(trade)
            used.update(trade)
    return taken


def _child(space: SearchSpace, parent: Indices, trades: Sequence[Trade]) -> Indices:
    draft = Draft(space, parent)
    for up, down in trades:
        draft.up(up)
        draft.down(down)
    return tuple(draft.levels)


def _decay(
    space: SearchSpace, evaluate: Evaluate, parent: Indices, drawn: Sequence[_Offspring], tokens: int
) -> tuple[list[Distance], int]:
    """The numbers of each distance, and how many offspring had no finite score."""
    profiles = [space.decode(levels) for levels in (parent, *(child.levels for child in drawn))]
    first, second = evaluate(profiles, tokens), evaluate(profiles, tokens)
    b, c = ([score - scores[0] for score in scores[1:]] for scores in (first, second))
    kept = finite(b, c)
    found = []
    for distance in sorted({child.distance for child in drawn}):
        own = [i for i in kept if drawn[i].distance == distance]
        if len(own) >= FEWEST:
            predicted = [drawn[i].predicted for i in own]
            found.append(_distance(distance, predicted, [b[i] for i in own], [c[i] for i in own]))
    return found, len(drawn) - len(kept)


def _distance(switches: int, predicted: Sequence[float], b: Sequence[float], c: Sequence[float]) -> Distance:
    changes = [mean(both) for both in zip(b, c, strict=True)]
    return Distance(
        switches=switches,
        offspring=len(changes),
        predicted=(spearman(predicted, b) + spearman(predicted, c)) / 2,
        repeated=spearman(b, c),
        better=mean(change < 0 for change in changes),
        change=median(changes),
    )
