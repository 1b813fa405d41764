"""Algorithm 1 of the paper: a (1 + lambda) evolutionary search with multi-step selection.

One parent, no crossover. Each generation costs `offspring * tokens[0] + survivors[0] * tokens[1] + ...` tokens of
scoring, the parent's re-score in the last stage included; the search itself takes milliseconds beside that.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import Random

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, ConfigError
from evopress.search.learner import Evidence, Learner
from evopress.search.moves.mutation import Indices, Mutation, equal_switches, roles, thirds
from evopress.search.planned import Plan, Planned, ranked
from evopress.search.preselect import Preselect
from evopress.search.racing import Memory, Race, Track
from evopress.search.stages import Schedule
from evopress.search.starts.drawn import default_starts
from evopress.search.types import Batch

Candidate = tuple[Indices, Profile]

Generation = Generator[Batch, list[float], bool]
"""A part of a plan that makes a generation, and answers whether there was anything to score."""

ATTEMPTS = 500
"""How many mutations in a row may give nothing new before a generation makes do with the offspring it has."""


class Evolution(Planned):
    """The search. `best` is the current parent and `score` its score in the last stage that it took part in.

    `start` gives the candidates for the first parent; without it they are those of `default_starts`. One candidate
    is taken as it is, several are scored as generation 0.
    The first `coarse_generations` move few genes, whatever `mutate` is: two of three move whole roles, the last third
    roles in a third of the depth.
    The parent joins the last stage of each generation, as the first of its batch, and stays when nothing beats it.
    With `race` the last stage is a race between parent and survivors, in several batches.
    With `preselect` more offspring are drawn than are scored, and it chooses. It and `mutate`, if they are learners,
    are given every batch as evidence.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: Random,
        schedule: Schedule,
        *,
        mutate: Mutation = equal_switches,
        coarse_generations: int = 0,
        start: Sequence[Profile] | None = None,
        preselect: Preselect | None = None,
        race: Race | None = None,
    ) -> None:
        self.space, self.schedule = space, schedule
        self._rng, self._mutate, self._coarse_generations = rng, mutate, coarse_generations
        self._preselect, self._race, self._known = preselect, race, Memory()
        self._learners = [part for part in (mutate, preselect) if isinstance(part, Learner)]
        self._starts = tuple(dict.fromkeys(default_starts(space, rng) if start is None else start))
        if not self._starts:
            raise ConfigError("the list of start profiles is empty; give at least one, or none at all for the default")
        for profile in self._starts:
            space.validate(profile)
        super().__init__(self._starts[0])

    def plan(self) -> Plan:
        """Choose the start, then run generation after generation; the scheme of Algorithm 1."""
        if len(self._starts) > 1:
            batch = Batch(generation=0, stage=0, tokens=self.schedule.first_tokens, profiles=self._starts)
            scores = yield batch
            self.choose(self._starts, scores)
            if self._learners:
                starts = [self.space.encode(start) for start in self._starts]
                self._learn(batch, starts[0], starts, scores, [starts[i] for i in ranked(scores)[:1]], final=True)
        idle = 0  # generations in a row that had nothing to score
        for generation in range(1, self.schedule.generations + 1):
            parent = self.space.encode(self.best)
            children = self._children(generation, parent)
            if not children:
                self.stopped = f"generation {generation} found no profile besides its parent in {ATTEMPTS} mutations"
                return
            scored = yield from self._select(generation, parent, children)
            idle = 0 if scored else idle + 1
            if idle == ATTEMPTS:
                self.stopped = f"all offspring of {ATTEMPTS} generations in a row are known to be no better"
                return

    def _select(self, generation: int, parent: Indices, children: list[Indices]) -> Generation:
        """Multi-step selection: the parent joins the last stage, by its position in the schedule."""
        candidates = [(child, self.space.decode(child)) for child in children]
        last = len(self.schedule.stages) - 1
        for number, stage in enumerate(self.schedule.stages):
            if number == last:
                candidates = [(parent, self.best), *candidates]
                if self._race:
                    last_stage = Batch(generation, number, stage.tokens, ())
                    raced = yield from self._run_race(last_stage, candidates, self._race)
                    return raced or number > 0
            batch = Batch(generation, number, stage.tokens, tuple(profile for _, profile in candidates))
            scores = yield batch
            order = ranked(scores)[: stage.survivors]
            scored = [indices for indices, _ in candidates]
            candidates = [candidates[i] for i in order]
            self._learn(batch, parent, scored, scores, [indices for indices, _ in candidates], final=number == last)
        self.accepted = candidates[0][1] != self.best
        self.best, self.score = candidates[0][1], scores[order[0]]
        return True

    def _run_race(self, stage: Batch, candidates: list[Candidate], race: Race) -> Generation:
        """The last stage as a race of the parent, candidate 0, and its children."""
        asked, tokens = False, race.tokens(stage.tokens)
        track = Track(race, len(candidates) - 1)
        for step in range(race.parts):
            runners = [candidates[i] for i in track.running]
            known = self._known.on(step) if race.reuse else {}
            unknown = tuple(profile for _, profile in runners if profile not in known)
            part = self._known.first + step if race.reuse else None
            batch = Batch(stage.generation, stage.stage + step, tokens, unknown, part)
            if unknown:
                asked = True
                known.update(zip(unknown, (yield batch), strict=True))
            scores = [known[profile] for _, profile in runners]
            track.add(scores)
            running = [candidates[track.winner if track.over else i][0] for i in track.running]
            scored = [indices for indices, _ in runners]
            self._learn(batch, candidates[0][0], scored, scores, running[: 1 if track.over else None], track.over)
            if track.over:
                break
        self.accepted = track.winner != 0
        if self.accepted:
            self._known.move_on(race.parts)
        self.best, self.score = candidates[track.winner][1], track.mean(track.winner)
        return asked

    def _children(self, generation: int, parent: Indices) -> list[Indices]:
        """The offspring of a generation. Coarse moves may have nothing left to trade; then the usual moves go on."""
        children: list[Indices] = []
        wanted = self.schedule.offspring * (self._preselect.pool if self._preselect else 1)
        if generation <= self._coarse_generations:
            coarse = roles if 3 * generation <= 2 * self._coarse_generations + 1 else thirds
            children = self._distinct_children(coarse, parent, wanted)
        children = children or self._distinct_children(self._mutate, parent, wanted)
        return self._preselect.keep(parent, children, self.schedule.offspring) if self._preselect else children

    def _distinct_children(self, mutate: Mutation, parent: Indices, wanted: int) -> list[Indices]:
        """Offspring that differ from the parent and from each other; fewer than wanted when no more are found."""
        children: list[Indices] = []
        seen = {parent}
        failures = 0
        while len(children) < wanted and failures < ATTEMPTS:
            child = mutate(self.space, parent, self._rng)
            if child is None or child in seen:
                failures += 1
                continue
            if not self.space.fits(child):
                cost, budget = self.space.cost(child), self.space.budget
                raise BudgetError(f"a mutation made a profile that costs {cost}, above the budget of {budget}")
            failures = 0
            seen.add(child)
            children.append(child)
        return children

    def _learn(
        self,
        batch: Batch,
        parent: Indices,
        candidates: list[Indices],
        scores: list[float],
        kept: list[Indices],
        final: bool,
    ) -> None:
        """Give the learners a batch with its scores and what goes on."""
        about = batch.generation, batch.stage, batch.tokens, parent
        for learner in self._learners:
            learner.learn(Evidence(*about, tuple(candidates), tuple(scores), tuple(kept), final))
