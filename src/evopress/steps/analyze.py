"""The analyses of `evopress.analysis` on a finished run: its space, its searched profile, its search text.

They ask what the paper argues with: do layer errors add up, what do single changes do, how many tokens tell profiles
apart. Each is scored like the search itself; how many tokens that takes is in its result. Results go to `analysis/` in
the run directory, a JSON file and a figure each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from evopress.analysis import (
    Supersets,
    Table,
    Turns,
    agreement_table,
    correlate_errors,
    cuts,
    distance_table,
    draw_errors,
    draw_landscape,
    draw_noise,
    draw_supersets,
    error_table,
    explore,
    find_supersets,
    measure_noise,
    neighbour_table,
    piece_scores,
    random_profiles,
    rescore,
    stage_table,
    superset_table,
    worst,
)
from evopress.core.files import write_text
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.fitness.divergence import Perplexity
from evopress.fitness.evaluator import Evaluator
from evopress.run.records import read_profile
from evopress.search.presets import make_mutation
from evopress.search.stages import Stage, validate_schedule
from evopress.steps.workspace import Workspace
from evopress.text.tokens import Piece

ANALYSES = ("monotonicity", "landscape", "noise")


@dataclass(frozen=True)
class Sizes:
    """How much is scored: `profiles` profiles or offspring, on `tokens` tokens each, on all if there are fewer."""

    profiles: int = 32
    tokens: int = 1024


@dataclass(frozen=True)
class Analysis:
    """What an analysis found, as data and as tables; `draw` makes its figure."""

    found: Any
    tables: tuple[Table, ...]
    draw: Callable[[Any, Path], None]


@dataclass(frozen=True)
class DropSets:
    """Drop sets inside one another as the search text scores them, and the same pairs' perplexity on held-out text."""

    search: Supersets
    heldout: Supersets


def analyze(
    workspace: Workspace, names: tuple[str, ...] = ANALYSES, sizes: Sizes = Sizes(), figures: bool = True
) -> dict[str, Analysis]:
    """Run the named analyses and write them to `analysis/`; ConfigError lists the names that exist."""
    if unknown := sorted(set(names) - set(ANALYSES)):
        raise ConfigError(f"unknown analysis {unknown[0]!r}; use {', '.join(ANALYSES)}")
    if not names:
        raise ConfigError(f"no analysis is named; use {', '.join(ANALYSES)}")
    directory = workspace.run.path / "analysis"
    profile, results = read_profile(workspace.run.profile), {}
    sizes = replace(sizes, tokens=min(sizes.tokens, workspace.splits.search.total))
    candidates = max(sizes.profiles, 4) * 8
    with workspace.evaluator(workspace.splits.search, (workspace.measure,), candidates) as evaluator:
        for done, name in enumerate(names):
            workspace.observer.progress("analyze", done, len(names), name)
            run = {"monotonicity": _monotonicity, "landscape": _landscape, "noise": _noise}[name]
            results[name] = run(workspace, evaluator, profile, sizes)
            directory.mkdir(exist_ok=True)
            write_text(directory / f"{name}.json", json.dumps(asdict(results[name].found), indent=1) + "\n")
            if figures:
                results[name].draw(results[name].found, directory / f"{name}.svg")
    workspace.observer.progress("analyze", len(names), len(names))
    return results


def _monotonicity(workspace: Workspace, evaluator: Evaluator, profile: Profile, sizes: Sizes) -> Analysis:
    """Sums of layer errors against scores; where units are dropped, drop sets inside one another."""
    space, rng = workspace.space, Random(workspace.config.search.seed)
    if workspace.family.method is not None:
        drawn = random_profiles(space, sizes.profiles, rng)
        errors = correlate_errors(evaluator, workspace.layer_errors, drawn, tokens=sizes.tokens)
        return Analysis(errors, (error_table(errors),), draw_errors)
    bases = worst(evaluator, random_profiles(space, sizes.profiles, rng), 3, tokens=max(2, sizes.tokens // 8))
    stages = (Stage(max(2, sizes.tokens // 8), 2), Stage(max(2, sizes.tokens // 2), 1))
    supersets = find_supersets(
        space,
        evaluator,
        rng,
        (*bases, profile),
        Turns(change=max(1, workspace.map.n_blocks // 15), rounds=1, offspring=8, stages=stages),
        token_limit=60 * sizes.tokens,
        tokens=sizes.tokens,
    )
    heldout = workspace.splits.heldout
    other = replace(evaluator, text=heldout, measures=(Perplexity(),), calls=0)
    found = DropSets(supersets, rescore(space, supersets, other, min(sizes.tokens, heldout.total)))
    tables = superset_table(found.search), superset_table(found.heldout, "held-out perplexity")
    return Analysis(found, tables, lambda found, path: draw_supersets(found.search, path))


def _landscape(workspace: Workspace, evaluator: Evaluator, profile: Profile, sizes: Sizes) -> Analysis:
    """All or many single switches of the searched profile, and how far their sums predict several."""
    rng, limit = Random(workspace.config.search.seed), 4 * sizes.profiles
    found = explore(
        workspace.space, evaluator, rng, profile, tokens=sizes.tokens, limit=limit, offspring=sizes.profiles
    )
    return Analysis(found, (neighbour_table(found), distance_table(found)), draw_landscape)


def _noise(workspace: Workspace, evaluator: Evaluator, profile: Profile, sizes: Sizes) -> Analysis:
    """How well few tokens order the searched profile's offspring, and what the run's own stages throw away."""
    section, space = workspace.config.search, workspace.space
    rng = Random(section.seed)
    children = _offspring(
        space,
        profile,
        make_mutation(section.mutation, section.band_share, workspace.family.moves),
        sizes.profiles,
        rng,
    )
    wanted = max(4 * sizes.tokens, 2 * max(section.tokens_per_stage))
    sequences, lengths = 0, list(map(len, evaluator.text.sequences))
    while sequences < len(lengths) and sum(lengths[:sequences]) < wanted:
        sequences += 1
    pieces = cuts(lengths[:sequences])
    scored = evaluator.evaluate(children, [Piece(*piece) for piece in pieces])
    scores = piece_scores(scored.sums[:, 0].numpy(), scored.counts[0].numpy(), pieces)
    offspring = min(section.offspring, len(children))
    stages = validate_schedule(section.offspring, section.survivors, section.tokens_per_stage)
    total = sum(lengths[:sequences])
    fitting = [stage for stage in stages if stage.tokens <= total and stage.survivors <= offspring]
    found = measure_noise(scores, rng, stages=fitting, offspring=offspring)
    return Analysis(found, (agreement_table(found), stage_table(found)), draw_noise)


def _offspring(space: SearchSpace, profile: Profile, mutate: Any, count: int, rng: Random) -> list[Profile]:
    """Different offspring of a profile; fewer where the space has no more."""
    parent, found = space.encode(profile), {}
    for _ in range(50 * count):
        child = mutate(space, parent, rng)
        if child is not None and child != parent:
            found[child] = space.decode(child)
        if len(found) == count:
            break
    return list(found.values())
