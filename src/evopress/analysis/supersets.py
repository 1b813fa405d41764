"""Is dropping more ever better? A search for drop sets, one inside the other, of which the larger scores better.

The paper's Table 1 shows such a pair: error monotonicity fails. From each given profile two searches take turns, both
the usual evolution in a smaller space: for the best profile that drops all of a set and some units more, then for the
worst one that drops as many fewer than that, and again from there. Noise aside, the gap of the two can only grow. Then
all profiles are scored once more, on one fresh minibatch, and every two that are nested make a pair. It costs what
`token_limit` says.

What is worth starting from: bad drops (`evopress.analysis.populations.worst`). Around good ones sets are mostly
monotone (SmolLM2: benchmarks/results/supersets_2-core-cpu_2026-11.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from random import Random

from evopress.analysis.table import Table
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError, ProfileError, ScheduleError
from evopress.search.driver import run_search
from evopress.search.evolution import Evolution
from evopress.search.moves.mutation import Indices
from evopress.search.stages import Schedule, Stage, validate_schedule
from evopress.search.starts.drawn import ATTEMPTS
from evopress.search.types import Evaluate

SHOWN = 10
"""How many pairs a result keeps, the largest gains first."""

DROPPED, KEPT = 0, 1
"""Level indices of a unit that can be dropped."""


@dataclass(frozen=True)
class Pair:
    """Names of the units that two profiles drop, `fewer` a strict subset of `more`, and their scores on one text."""

    fewer: tuple[str, ...]
    more: tuple[str, ...]
    fewer_score: float
    more_score: float

    @property
    def gain(self) -> float:
        """By how much dropping more is better; positive where monotonicity fails."""
        return self.fewer_score - self.more_score


@dataclass(frozen=True)
class Supersets:
    """The pairs with the largest gains, best first, of `nested` pairs that were scored on `tokens` tokens.

    `token_total` is what finding and scoring them took. The pairs are the best of many on one text: for a number
    without that bias score them on another one (`rescore`).
    """

    tokens: int
    token_total: int
    nested: int
    pairs: tuple[Pair, ...]

    @property
    def better(self) -> tuple[Pair, ...]:
        """The pairs in which dropping more is better."""
        return tuple(pair for pair in self.pairs if pair.gain > 0)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The searches from one profile: in each of `rounds` one for a superset, then one for a subset.

    `change` is by how many units of each kind sets differ. A search mutates `offspring` profiles a generation and
    selects in `stages`. ConfigError or ScheduleError when it does not fit together.
    """

    change: int
    rounds: int
    offspring: int
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if self.change < 1 or self.rounds < 1:
            raise ConfigError(f"change is {self.change} and rounds {self.rounds}; both must be 1 or more")
        survivors, tokens = [stage.survivors for stage in self.stages], [stage.tokens for stage in self.stages]
        validate_schedule(self.offspring, survivors, tokens)

    def tokens(self, generations: int) -> int:
        """What a search takes at most: its start candidates, and generations with the parent in the last stage."""
        candidates = [self.offspring, *(stage.survivors for stage in self.stages[:-1])]
        one = sum(count * stage.tokens for count, stage in zip(candidates, self.stages, strict=True))
        return self.offspring * self.stages[0].tokens + generations * (one + self.stages[-1].tokens)

    def generations(self, limit: int) -> int:
        """How many generations the limit pays for."""
        return (limit - self.tokens(0)) // (self.tokens(1) - self.tokens(0))


def find_supersets(
    space: SearchSpace,
    evaluate: Evaluate,
    rng: Random,
    profiles: Sequence[Profile],
    turns: Turns,
    *,
    token_limit: int,
    tokens: int,
) -> Supersets:
    """Search from each of `profiles` for supersets of its drops and for subsets of these, and score what was found.

    Of each kind of units (of an exchange group and cost: attention and MLP) one at least stays dropped and one kept.
    Each search runs for its part of `token_limit`; `tokens` is what each profile found is scored on at the end.
    ConfigError where units have more than two levels or nothing can change, ScheduleError when the limit is too low.
    """
    if not profiles:
        raise ConfigError("there is no profile to start from; give one or more")
    bases = [space.encode(profile) for profile in dict.fromkeys(profiles)]
    searches = 2 * turns.rounds * len(bases)
    last = tokens * (len(bases) + searches)
    generations = turns.generations((token_limit - last) // searches)
    if generations < 1:
        needed = last + searches * turns.tokens(1)
        raise ScheduleError(f"a limit of {token_limit} tokens is too low; {searches} searches need at least {needed}")
    meter = _Meter(evaluate)
    schedule = Schedule(generations=generations, offspring=turns.offspring, stages=turns.stages)
    search = _Search(space, meter, rng, schedule)
    found = [levels for base in bases for levels in search.chain(base, turns)]
    if not found:
        raise ConfigError(f"no drops of the {len(bases)} profiles can change; some kind needs two units to choose from")
    drop_sets = dict.fromkeys(_dropped(space, levels) for levels in (*bases, *found))
    nested = [(fewer, more) for fewer in drop_sets for more in drop_sets if set(fewer) < set(more)]
    pairs = _score(space, nested, meter, tokens)
    return Supersets(tokens, meter.tokens, len(pairs), tuple(pairs[:SHOWN]))


def rescore(space: SearchSpace, found: Supersets, evaluate: Evaluate, tokens: int) -> Supersets:
    """The same pairs scored on another text, or by another measure; they are ordered anew."""
    meter = _Meter(evaluate)
    pairs = _score(space, [(pair.fewer, pair.more) for pair in found.pairs], meter, tokens)
    return Supersets(tokens, found.token_total + meter.tokens, found.nested, tuple(pairs))


def profile_that_drops(space: SearchSpace, names: Collection[str]) -> Profile:
    """The profile that drops the units of these names and keeps all others; ProfileError for a name that cannot be."""
    if odd := sorted(set(names) - {unit.name for unit in space.units if len(unit.levels) > 1}):
        raise ProfileError(f"unit {odd[0]!r} cannot be dropped: the space has no such unit, or it must be kept")
    return space.decode([DROPPED if unit.name in names else len(unit.levels) - 1 for unit in space.units])


def superset_table(found: Supersets, score: str = "score") -> Table:
    """A row for each pair; `score` says what was scored."""
    rows = tuple(
        (
            f"{len(pair.fewer)}",
            f"{len(pair.more)}",
            f"{pair.fewer_score:.5g}",
            f"{pair.more_score:.5g}",
            "yes" if pair.gain > 0 else "no",
            ", ".join(name for name in pair.more if name not in pair.fewer),
        )
        for pair in found.pairs
    )
    title = f"drop sets inside one another: the best {len(rows)} of {found.nested} pairs, {found.tokens} tokens"
    return Table(title, ("drops", "drops more", score, f"{score} with more", "better", "dropped in addition"), rows)


@dataclass(frozen=True)
class _Task:
    """Move units of `free` away from the level they have in `base`: so many of each kind."""

    base: Indices
    free: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]

    @property
    def maximises(self) -> bool:
        """Whether the worst profile is wanted: where drops are taken back."""
        return self.base[self.free[0][0]] == DROPPED

    def start(self, rng: Random) -> Indices:
        """A random profile of the task."""
        moved = {u for units, count in zip(self.free, self.counts, strict=True) for u in rng.sample(units, count)}
        return tuple(1 - level if unit in moved else level for unit, level in enumerate(self.base))

    def holds(self, levels: Indices) -> bool:
        """Whether level indices are a profile of the task."""
        moved = [sum(levels[unit] != self.base[unit] for unit in units) for units in self.free]
        return tuple(moved) == self.counts and sum(moved) == sum(map(int.__ne__, levels, self.base))

    def space(self, space: SearchSpace, start: Indices) -> SearchSpace:
        """The space in which only the free units have two levels, and the budget is that of the start."""
        free = {unit for units in self.free for unit in units}
        units = tuple(
            unit if i in free else replace(unit, levels=(unit.levels[start[i]],)) for i, unit in enumerate(space.units)
        )
        return SearchSpace(units, space.cost(start), space.groups)


@dataclass(frozen=True)
class _Search:
    """What all searches share."""

    space: SearchSpace
    evaluate: Evaluate
    rng: Random
    schedule: Schedule

    def chain(self, base: Indices, turns: Turns) -> list[Indices]:
        """The best superset of the base's drops, the worst subset of that one's, and so on in turn."""
        kinds, before, found = _kinds(self.space), None, [base]
        for number in range(2 * turns.rounds):
            task = _task(found[-1], kinds, DROPPED if number % 2 else KEPT, turns.change)
            if task is None:
                break
            found, before = [*found, self.run(task, before)], found[-1]
        return found[1:]

    def run(self, task: _Task, known: Indices | None) -> Indices:
        """The best superset or the worst subset; `known` is one of them to start from."""
        starts = {known: None} if known is not None and task.holds(known) else {}
        for _ in range(ATTEMPTS):
            if len(starts) < self.schedule.offspring:
                starts[task.start(self.rng)] = None
        evolution = Evolution(
            task.space(self.space, next(iter(starts))),
            self.rng,
            self.schedule,
            start=[self.space.decode(start) for start in starts],
        )
        return self.space.encode(run_search(evolution, _negated(self.evaluate) if task.maximises else self.evaluate))


class _Meter:
    """An `Evaluate` that counts its tokens."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.tokens = 0

    def __call__(self, profiles: Sequence[Profile], tokens: int) -> list[float]:
        self.tokens += len(profiles) * tokens
        return self._evaluate(profiles, tokens)


def _kinds(space: SearchSpace) -> list[list[int]]:
    """The units that can be dropped, by what may take each other's place."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, group in enumerate(space.groups):
        for unit in group:
            if len(space.units[unit].levels) > 2:
                count = len(space.units[unit].levels)
                raise ConfigError(f"unit {space.names[unit]} has {count} levels; supersets are of units with two")
            for step in space.steps[unit]:
                found.setdefault((number, step), []).append(unit)
    return list(found.values())


def _task(base: Indices, kinds: Sequence[Sequence[int]], level: int, change: int) -> _Task | None:
    """The search that moves units away from `level`; None when no kind has two units there."""
    free = [tuple(unit for unit in kind if base[unit] == level) for kind in kinds]
    free = [units for units in free if len(units) > 1]
    return _Task(base, tuple(free), tuple(min(change, len(units) - 1) for units in free)) if free else None


def _negated(evaluate: Evaluate) -> Evaluate:
    return lambda profiles, tokens: [-score for score in evaluate(profiles, tokens)]


def _dropped(space: SearchSpace, levels: Indices) -> tuple[str, ...]:
    return tuple(unit.name for unit, level in zip(space.units, levels, strict=True) if level < len(unit.levels) - 1)


def _score(
    space: SearchSpace, nested: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], evaluate: Evaluate, tokens: int
) -> list[Pair]:
    """Pairs with scores of one minibatch, the largest gain first; without those whose scores are not finite."""
    drop_sets = list(dict.fromkeys(names for pair in nested for names in pair))
    scores = evaluate([profile_that_drops(space, names) for names in drop_sets], tokens)
    known = {names: score for names, score in zip(drop_sets, scores, strict=True) if isfinite(score)}
    pairs = [Pair(a, b, known[a], known[b]) for a, b in nested if a in known and b in known]
    return sorted(pairs, key=lambda pair: -pair.gain)
