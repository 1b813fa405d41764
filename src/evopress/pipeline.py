"""READ FIRST: a run from model to checkpoint, in four steps on one run directory.

    build      model + calibration text          -> database/
    search     database + search text + budget   -> sensitivity.json, journal.jsonl, profile.json
    evaluate   profile + held-out text           -> evaluation.json
    export     profile + database                -> export/, a stock Hugging Face checkpoint

Each step continues where it was interrupted and does nothing when it has nothing to do. `quantize` does all four.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from evopress.config import Config, flat, resolve
from evopress.database.build import build_database
from evopress.export.hf import export_checkpoint
from evopress.fitness.divergence import KL, Perplexity, make_measure
from evopress.fitness.sensitivity import Sensitivity, measure_sensitivity
from evopress.fitness.tokens import load_heldout
from evopress.observer import Observer
from evopress.plan import sensitivity_memory
from evopress.profile import Profile
from evopress.records import (
    read_json,
    read_profile,
    read_sensitivity,
    sizes,
    write_evaluation,
    write_profile,
    write_sensitivity,
)
from evopress.run import RunDirectory, locked, require_run_or_empty, start_run
from evopress.search import Evolution, Journal, knapsack, run_search
from evopress.search.best_of import BestOf
from evopress.search.presets import make_mutation
from evopress.search.sensitivity import expansion_point, sensitivity_starts
from evopress.search.stages import validate_schedule
from evopress.search.starts import default_starts, random_starts
from evopress.search.types import BatchResult, Strategy
from evopress.workspace import Custom, Workspace

Fitness = str | Custom


class Run:
    """A finished run: its directory, the profile that was found and the scores on held-out text."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    @property
    def profile(self) -> Profile:
        """The searched profile."""
        return read_profile(self.directory.profile)

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return read_json(self.directory.evaluation)


def quantize(
    model: str,
    *,
    bits: float | str | None = None,
    bpw: float | str | None = None,
    out: str | Path,
    preset: str = "quick",
    fitness: Fitness | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> Run:
    """Find the best mixed bit-widths for a model under a budget and write the checkpoint.

    `bits` counts code bits only, as the paper does; `bpw` counts scales and zeros too. `options` are the fields of
    `evopress.config` by name. `fitness` is a name or a function of (teacher logits, student logits), both
    (tokens, vocabulary), that returns one loss a token. Raises the errors of `evopress.errors`.

    >>> run = quantize("demo", bits=3, out="runs/demo")  # doctest: +SKIP
    >>> run.evaluation["profiles"]["searched"]["kl"]  # doctest: +SKIP
    """
    function = fitness if callable(fitness) else None
    name = getattr(function, "__qualname__", None) if function else fitness
    config = resolve(model, bits=bits, bpw=bpw, preset=preset, fitness=name, **options)
    return run_all(config, Path(out), observer or Observer(), function)


def run_all(config: Config, out: Path, observer: Observer, fitness: Custom | None = None) -> Run:
    """All four steps on the run directory `out`; those whose result is there are not done again."""
    require_run_or_empty(out)
    with locked(out):
        directory = start_run(out, config)
        workspace = Workspace(directory, observer, fitness)
        if not directory.profile.exists():
            build(workspace)
            search(workspace)
        if not directory.evaluation.exists():
            evaluate(workspace)
        if not directory.export.exists():
            export(workspace)
    return Run(directory)


def build(workspace: Workspace) -> None:
    """Make the database, or what is missing of it."""
    if not workspace.fitness:
        make_measure(workspace.config.search.fitness)
    runner, splits = workspace.runner, workspace.splits
    workspace.require_build_memory()
    with locked(workspace.run.database):  # other runs may share it
        build_database(
            workspace.run.database,
            runner,
            workspace.method,
            splits.calibration.sequences,
            workspace.fingerprints,
            batch_tokens=workspace.batch_tokens,
            progress=lambda done, total, what: workspace.observer.progress("build", done, total, what),
        )


def search(workspace: Workspace) -> Profile:
    """Search the space, or go on from the journal, and write profile.json."""
    config, text = workspace.config, workspace.splits.search
    measure = make_measure(workspace.fitness or config.search.fitness)
    sensitivity = _sensitivity(workspace)
    strategy = _strategy(workspace, sensitivity)
    seen = _Seen(workspace, sensitivity.cost if sensitivity else 0)
    header = flat(config) | workspace.fingerprints | {"search text": text.fingerprint}
    with (
        Journal(workspace.run.journal, seed=config.search.seed, fingerprint=header) as journal,
        workspace.evaluator(text, (measure,), config.search.offspring) as evaluator,
    ):
        evaluator.calls = journal.batches
        profile = run_search(strategy, evaluator, journal, seen)
    if strategy.stopped:
        workspace.observer.note(strategy.stopped)
    write_profile(workspace, profile, strategy.score, seen.tokens)
    return profile


def evaluate(
    workspace: Workspace, data: str | None = None, tokens: int | None = None, profile: Path | None = None
) -> dict[str, Any]:
    """Score dense, uniform, knapsack and searched profile on held-out text, or on any other, and write the result.

    `data` names another text (all of it, or its first `tokens` tokens), `profile` a file with another profile that is
    scored too, as `given`; with either, evaluation.json is left as it is.
    """
    started = time.monotonic()
    config, space = workspace.config, workspace.space
    text = workspace.splits.heldout
    if data is not None:
        text = load_heldout(data, workspace.loaded.tokenizer, config.data.sequence_length, tokens)
    profiles: dict[str, Profile | None] = {
        "dense": None,
        "uniform": space.uniform(),
        "dp": knapsack(space, workspace.layer_errors),
        "searched": read_profile(workspace.run.profile),
    }
    if profile is not None:
        profiles["given"] = _read_fitting(workspace, profile)
    with workspace.evaluator(text, (KL(), Perplexity()), len(profiles)) as evaluator:
        scores = evaluator.evaluate_all(
            list(profiles.values()),
            lambda done, total: workspace.observer.progress("evaluate", done, total, text.source),
        )
    rows = {
        name: {"perplexity": perplexity, "kl": kl, **sizes(workspace, profile)}
        for (name, profile), kl, perplexity in zip(profiles.items(), scores.scores(0), scores.scores(1), strict=True)
    }
    result = {
        "profiles": rows,
        "data": text.record(),
        "tokens": text.total,
        "seconds": round(time.monotonic() - started, 1),
    }
    if data is None and profile is None:
        write_evaluation(workspace, result)
    return result


def export(workspace: Workspace, out: Path | None = None, profile: Path | None = None) -> Path:
    """Write the searched profile, or that of the file `profile`, as a stock Hugging Face checkpoint.

    Returns its directory: `out`, or `export/` in the run.
    """
    target = out or workspace.run.export
    export_checkpoint(
        target,
        workspace.loaded,
        workspace.map,
        workspace.database,
        _read_fitting(workspace, profile or workspace.run.profile),
        progress=lambda done, total: workspace.observer.progress("export", done, total),
    )
    return target


def _read_fitting(workspace: Workspace, path: Path) -> Profile:
    """A profile from a file, checked against the model's units and levels; it may be above the budget."""
    profile = read_profile(path)
    workspace.space.encode(profile)
    return profile


def _sensitivity(workspace: Workspace) -> Sensitivity | None:
    """The measured sensitivities, from the run directory or measured now; None when the search starts without."""
    section, space, text = workspace.config.search, workspace.space, workspace.splits.search
    if section.start != "sensitivity" or section.strategy != "evolution":
        return None
    parent, tokens = expansion_point(space), section.sensitivity_tokens
    fingerprint = workspace.fingerprints | {
        "search text": text.fingerprint,
        "profile": dict(parent.items()),
        "tokens": tokens,
        "seed": section.seed,
    }
    found = read_sensitivity(workspace.run.sensitivity, fingerprint)
    if found is None:
        needs = sensitivity_memory(workspace.shapes, tokens)
        with workspace.evaluator(text, (KL(),), 1, needs) as evaluator:
            found = measure_sensitivity(
                evaluator,
                parent,
                {unit.name: [level.name for level in unit.levels] for unit in space.units},
                tokens,
                seed=section.seed,
                progress=lambda done, total: workspace.observer.progress("measure", done, total, "sensitivities"),
            )
        write_sensitivity(workspace, found, fingerprint)
    return found


def _strategy(workspace: Workspace, sensitivity: Sensitivity | None) -> Strategy:
    section, space = workspace.config.search, workspace.space
    rng = random.Random(section.seed)
    if section.strategy == "best-of":
        return BestOf(space, rng, count=section.start_candidates, tokens=section.tokens_per_stage[-1])
    if section.start == "paper":
        starts = default_starts(space, rng, section.start_candidates)
    else:
        starts = (space.uniform(), knapsack(space, workspace.layer_errors))
        if sensitivity:
            starts += sensitivity_starts(space, sensitivity.slope, sensitivity.curvature)
        if space.cost(starts[0]) < space.budget:
            starts += random_starts(space, section.start_candidates, rng)
    return Evolution(
        space,
        rng,
        generations=section.generations,
        offspring=section.offspring,
        stages=validate_schedule(section.offspring, section.survivors, section.tokens_per_stage),
        mutate=make_mutation(section.mutation, section.band_share),
        coarse_generations=section.coarse_generations,
        start=starts,
        start_tokens=section.start_tokens,
    )


class _Seen:
    """Counts the tokens of a search, from those that came before it, and passes each batch on to the observer."""

    def __init__(self, workspace: Workspace, tokens: int) -> None:
        self._workspace, self.tokens = workspace, tokens

    def __call__(self, result: BatchResult) -> None:
        self.tokens += len(result.batch.profiles) * result.batch.tokens
        self._workspace.observer.batch(result, self._workspace.space, self.tokens)
