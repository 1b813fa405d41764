"""The searches that a run can ask for, made from its configuration: evolution, and every baseline that applies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.fitness.divergence import KL
from evopress.fitness.sensitivity import Sensitivity, measure_sensitivity
from evopress.models.memory import sensitivity_memory
from evopress.run.records import naming, read_profile, read_sensitivity, write_sensitivity
from evopress.search import Evolution
from evopress.search.baselines.best_of import BestOf
from evopress.search.planned import ranked
from evopress.search.preselect import Preselect
from evopress.search.presets import make_mutation
from evopress.search.racing import STANDARD
from evopress.search.stages import Schedule, validate_schedule
from evopress.search.starts.bundles import sequences
from evopress.search.starts.drawn import default_starts, random_starts
from evopress.search.starts.refit import refit
from evopress.search.starts.sensitivity import distrusted, expansion_point, sensitivity_starts
from evopress.search.surrogate import Surrogate, effect_table
from evopress.search.types import Strategy
from evopress.steps.drops import levels_kept, nothing_dropped, with_drops, without_each
from evopress.steps.workspace import Workspace


def make_strategy(workspace: Workspace, warmup: Warmup, seed: int) -> Strategy:
    """The configured search with another seed; `warmup` comes from `warm_up`."""
    section, space = workspace.config.search, workspace.space
    rng = random.Random(seed)
    if section.strategy == "best-of":
        return BestOf(space, rng, count=section.start_candidates, tokens=section.tokens_per_stage[-1])
    return Evolution(
        space,
        rng,
        Schedule(
            generations=workspace.generations,
            offspring=section.offspring,
            stages=validate_schedule(section.offspring, section.survivors, section.tokens_per_stage),
            start_tokens=section.start_tokens,
        ),
        mutate=make_mutation(section.mutation, section.band_share, workspace.family.moves),
        coarse_generations=section.coarse_generations,
        start=_given(workspace, rng) + _starts(workspace, warmup, rng),
        preselect=_preselect(space, warmup, section.preselect),
        race=STANDARD if section.race else None,
    )


def _given(workspace: Workspace, rng: random.Random) -> tuple[Profile, ...]:
    """Where another search ended; or the start profile that the user has, as it is where it fits, and made to spend the
    budget.
    """
    if workspace.goes_on_from is not None:
        return (workspace.goes_on_from,)
    path = workspace.config.search.start_profile
    if path is None:
        return ()
    with naming(Path(path)):
        return refit(workspace.space, read_profile(Path(path), workspace.family.from_text), rng)


def _starts(workspace: Workspace, warmup: Warmup, rng: random.Random) -> tuple[Profile, ...]:
    """The candidates for the first parent: Algorithm 1's, or what cheap scores and measurements propose.

    Random profiles join where nothing was measured and the uniform one does not spend the budget.
    """
    section, space = workspace.config.search, workspace.space
    if section.start == "uniform":
        return default_starts(space, rng, section.start_candidates)
    proposed = workspace.family.starts
    if warmup.rounds:
        return _candidates(workspace, warmup)
    if "uniform" in proposed and space.cost(proposed["uniform"]) == space.budget:
        return tuple(proposed.values())
    return tuple(proposed.values()) + random_starts(space, section.start_candidates, rng)


def _preselect(space: SearchSpace, warmup: Warmup, pool: int) -> Preselect | None:
    """Pre-selection by a surrogate that starts from the last measured sensitivities, if there are any."""
    if pool == 1:
        return None
    effects = None
    if warmup.rounds:
        effects = effect_table(space, warmup.rounds[-1].slope, warmup.rounds[-1].curvature)
    return Preselect(Surrogate(space, effects), pool=pool)


@dataclass(frozen=True)
class Warmup:
    """What was measured before the search, one round after the other, and the tokens that took.

    `proposed` is what scores of the family's own came to. `best` is that and what each round but the last came
    to, with the tokens until then: a search that had to stop there has it.
    """

    rounds: tuple[Sensitivity, ...] = ()
    tokens: int = 0
    proposed: tuple[Profile, ...] = ()
    best: tuple[tuple[int, Profile], ...] = ()


def warm_up(workspace: Workspace, seed: int) -> Warmup:
    """Measure what the start asks for: nothing, the influence of blocks, or scores and sensitivities in rounds.

    Each round of sensitivities is measured at the best candidate that the one before left. What an interrupted run has
    measured is read from the run directory; single scores are made again.
    """
    section = workspace.config.search
    if section.start == "uniform" or section.strategy != "evolution":
        return Warmup()
    known = Warmup(tokens=workspace.family.start_tokens)
    if section.start != "sensitivity":
        return known
    known, parent = _proposed(workspace, known, seed), expansion_point(workspace.space)
    if workspace.goes_on_from is not None:
        parent = workspace.goes_on_from
    for number in range(len(section.sensitivity_tokens)):
        if number:
            candidates = _candidates(workspace, known)
            best = candidates[ranked(_scores(workspace, candidates, number, seed))[0]]
            tokens = known.tokens + len(candidates) * section.start_tokens
            known = replace(known, tokens=tokens, best=(*known.best, (tokens, best)))
            parent = nothing_dropped(workspace.space, best, known.rounds[0].profile)
        found = _measured(workspace, parent, number, seed)
        drops = (len(workspace.space.bundles) + 1) * _drop_tokens(workspace) if workspace.space.bundles else 0
        known = replace(known, rounds=(*known.rounds, found), tokens=known.tokens + found.cost + drops)
    return known


def _proposed(workspace: Workspace, known: Warmup, seed: int) -> Warmup:
    """With what the family's scored start proposes after its first batch, if it has one."""
    strategy = workspace.family.scored_start(workspace.config.search.start_tokens)
    batch = strategy.ask() if strategy else None
    if strategy is None or batch is None:
        return known
    number = len(workspace.config.search.sensitivity_tokens)
    strategy.tell(_scores(workspace, batch.profiles, number, seed))
    tokens = known.tokens + len(batch.profiles) * batch.tokens
    return replace(known, tokens=tokens, proposed=(strategy.best,), best=((tokens, strategy.best),))


def _candidates(workspace: Workspace, known: Warmup) -> tuple[Profile, ...]:
    """What cheap scores propose, the profile that the last round was measured at, if it fits, and what it proposes."""
    space, found = workspace.space, known.rounds[-1]
    own = (found.profile,) if space.fits(found.profile) else ()
    measured = sensitivity_starts(space, found.slope, found.curvature, workspace.family.gammas)
    if space.bundles:
        measured += sequences(space, distrusted(found.slope, found.curvature, SEQUENCES_GAMMA))
    return tuple(dict.fromkeys((*workspace.family.starts.values(), *known.proposed, *own, *measured)))


SEQUENCES_GAMMA = 1.4
"""How much the sequences of drops and levels distrust sensitivities: the second of `GAMMAS`."""


def _scores(workspace: Workspace, profiles: Sequence[Profile], number: int, seed: int) -> list[float]:
    """Scores on a minibatch of their own."""
    config = workspace.config.search
    with workspace.evaluator(workspace.splits.search, (workspace.measure,), len(profiles)) as evaluator:
        evaluator.seed, evaluator.calls = seed, -number  # the search counts its minibatches from 0
        return evaluator(profiles, config.start_tokens)


def _drop_tokens(workspace: Workspace) -> int:
    """On how many tokens drops are scored in each round: as many as the first one measures levels on."""
    return workspace.config.search.sensitivity_tokens[0]


def _measured(workspace: Workspace, parent: Profile, number: int, seed: int) -> Sensitivity:
    """The sensitivities at `parent`, from the run directory or measured now."""
    space, text, plan = workspace.space, workspace.splits.search, workspace.config.search.sensitivity_tokens
    path, drawn = workspace.run.sensitivity(number, seed), 1000 * seed + number
    fingerprint = workspace.fingerprints | {
        "search text": text.fingerprint,
        "profile": dict(parent.items()),
        "tokens": plan[number],
        "seed": drawn,
    }
    found = read_sensitivity(path, fingerprint)
    if found is None:
        needs = sensitivity_memory(workspace.shapes, plan[number])
        with workspace.evaluator(text, (KL(),), 1, needs) as evaluator:
            found = measure_sensitivity(
                evaluator,
                parent,
                levels_kept(space),
                plan[number],
                by="weights" if workspace.family.method else "blocks",
                seed=drawn,
                progress=lambda done, total: workspace.observer.progress(
                    "measure", number + done / total, len(plan), "sensitivities"
                ),
            )
            if space.bundles:
                evaluator.seed, evaluator.calls = drawn, 0
                scores = evaluator(without_each(space, parent), _drop_tokens(workspace))
                found = with_drops(found, space, scores)
        write_sensitivity(path, found, fingerprint)
    return found
