"""READ FIRST: a run from model to checkpoint, in five steps on one run directory.

    build      model + calibration text          -> database/
    search     database + search text + budget   -> sensitivity-*.json, journal.jsonl, profile.json
    polish     profile + both texts              -> polished/, if it is asked for
    evaluate   profile + held-out text           -> evaluation.json
    export     profile + its levels              -> export/, a checkpoint in the format of the run's target

A step goes on where it was interrupted. `quantize` does all five and writes report.html, which shows what happened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evopress.cards import make_card
from evopress.config import Config
from evopress.database.build import build_database
from evopress.errors import VerificationError
from evopress.export.card import write_card
from evopress.export.formats import find_format
from evopress.export.shards import weight_bytes
from evopress.export.staging import is_whole, staged, withdraw
from evopress.fitness.divergence import make_measure
from evopress.fitness.sources import require_source
from evopress.observer import Observer
from evopress.polish.step import polish_levels
from evopress.profile import Profile
from evopress.progress import Progress
from evopress.records import (
    journal_header,
    read_fitting,
    read_json,
    read_profile,
    seconds_of,
    timed,
    write_evaluation,
    write_profile,
    write_space,
)
from evopress.report import write_report
from evopress.resolve import resolve, resolve_polish
from evopress.run import RunDirectory, locked, require_run_or_empty, start_run
from evopress.scoring import HeldOut, score, shown_profiles
from evopress.search import Journal, Stopper, run_search
from evopress.search.types import Strategy
from evopress.strategies import make_strategy, warm_up
from evopress.trackers import tracked
from evopress.workspace import LossFunction, Workspace

Fitness = str | LossFunction


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
        return read_json(self.directory.evaluation, "evaluate")


def quantize(
    model: str,
    *,
    bits: float | str | None = None,
    bpw: float | str | None = None,
    size: int | str | None = None,
    out: str | Path,
    **options: Any,
) -> Run:
    """Find the best mixed bit-widths for a model under a budget and write the checkpoint.

    `bits` counts code bits only, as the paper does; `bpw` counts scales and zeros too; `size` is the most bytes that
    the exported files with weights may take ("100MB"). `options` are those of `compress`. Raises the errors of
    `evopress.errors`.

    >>> quantize("demo", bits=3, out="runs/demo").evaluation["profiles"]["searched"]["kl"]  # doctest: +SKIP
    """
    return compress(model, out=out, application="bits", bits=bits, bpw=bpw, size=size, **options)


def sparsify(model: str, *, sparsity: float | str, out: str | Path, **options: Any) -> Run:
    """Find the best non-uniform sparsity for a model: `sparsity` is the share of weights that become zero.

    `options` are those of `compress`.
    """
    return compress(model, out=out, application="sparsity", sparsity=sparsity, **options)


def drop(
    model: str,
    *,
    fraction: float | str | None = None,
    size: int | str | None = None,
    out: str | Path,
    counts: str = "count",
    **options: Any,
) -> Run:
    """Find the best sub-layers, blocks or pairs of blocks to drop: `fraction` of them, or of what `counts` counts.

    `size` instead is the most bytes that the exported files with weights may take ("100MB"), a matter of whole blocks.
    `options` are those of `compress`.
    """
    return compress(model, out=out, application="depth", fraction=fraction, size=size, counts=counts, **options)


def compress(
    model: str,
    *,
    out: str | Path,
    preset: str = "quick",
    fitness: Fitness | None = None,
    observer: Observer | None = None,
    track: Sequence[str] = (),
    **options: Any,
) -> Run:
    """What `quantize`, `sparsify` and `drop` share: all steps on the run directory `out`.

    `options` are the budget and the fields of `evopress.sections` by name. `fitness` is a name or a function of
    (teacher logits, student logits), both (tokens, vocabulary), that returns one loss a token. `track` names trackers
    of `evopress.trackers` that log the search.
    """
    function = fitness if callable(fitness) else None
    name = getattr(function, "__qualname__", None) if function else fitness
    config = resolve(model, preset=preset, fitness=name, **options)
    return run_all(config, Path(out), observer or Observer(), function, track=track)


def run_all(
    config: Config,
    out: Path,
    observer: Observer,
    fitness: LossFunction | None = None,
    *,
    checkpoint: bool = True,
    track: Sequence[str] = (),
) -> Run:
    """All steps on the run directory `out`, then the report; those whose result is there are not done again.

    Without `checkpoint` nothing is exported. `track` names trackers that log the search.
    """
    require_run_or_empty(out)
    with tracked(observer, track, config, out) as watching, locked(out):
        directory = start_run(out, config)
        workspace = Workspace(directory, watching, fitness)
        if not directory.profile.exists():
            require_source(config.data.source)
        if checkpoint and not is_whole(directory.export):
            find_format(config.format, config.compression.application).check(workspace)
        if not directory.profile.exists():
            build(workspace)
            search(workspace)
        if not directory.evaluation.exists():
            if config.polish.polish != "none":
                polish(workspace)
            evaluate(workspace)
        if checkpoint and not is_whole(directory.export):
            export(workspace)
        write_report([out], directory.report)
    return Run(directory)


def build(workspace: Workspace) -> None:
    """Make the database, or what is missing of it; nothing where levels need none."""
    if not workspace.fitness:
        make_measure(workspace.config.search.fitness)
    if (start := workspace.config.search.start_profile) is not None:
        read_profile(Path(start), workspace.application.from_text)
    if (method := workspace.application.method) is None:
        return
    workspace.require_build_memory(method)
    workspace.observer.note(f"levels: {method}")
    with locked(workspace.run.database):  # other runs may share it
        build_database(
            workspace.run.database,
            workspace.runner,
            method,
            workspace.splits.calibration.sequences,
            workspace.fingerprints,
            batch_tokens=workspace.batch_tokens,
            progress=lambda done, total, what: workspace.observer.progress("build", done, total, what),
        )


def search(workspace: Workspace) -> Profile:
    """Search the space, or go on from the journal, and write profile.json."""
    if text := workspace.config.search.automatic_text:
        workspace.observer.note(text)
    with timed(workspace.run.timing, "search"):
        profile, strategy, stopper = _search(workspace)
    stopped = stopper.reason or strategy.stopped or "all generations are done"
    workspace.observer.note(f"the search ended: {stopped}")
    write_profile(workspace, profile, strategy.score, stopper.tokens, stopped)
    return profile


def _search(workspace: Workspace) -> tuple[Profile, Strategy, Stopper]:
    config, text, started = workspace.config, workspace.splits.search, time.monotonic()
    measures = (workspace.measure,)  # an unknown one is an error before any work
    warmup = warm_up(workspace, config.search.seed)
    strategy = make_strategy(workspace, warmup, config.search.seed)
    write_space(workspace)
    before = seconds_of(workspace.run.timing, "search") + time.monotonic() - started
    observer = Progress(workspace.run.progress, workspace.observer, seconds=before)
    stopper = Stopper(config.search.limits, tokens=warmup.tokens, seconds=observer.before)
    with (
        Journal(workspace.run.journal, seed=config.search.seed, fingerprint=journal_header(workspace)) as journal,
        workspace.evaluator(text, measures, config.search.offspring) as evaluator,
    ):
        evaluator.calls = journal.batches
        profile = run_search(
            strategy,
            evaluator,
            journal,
            lambda result: observer.batch(result, workspace.space, stopper.tokens),
            stopper,
        )
        return profile, strategy, stopper


def polish(workspace: Workspace, what: str | None = None) -> None:
    """Learn the levels of the searched profile: `what` as --polish takes it, by default what the run's settings say."""
    own = workspace.config.polish.polish
    section = resolve_polish(workspace.config, what or ("auto" if own == "none" else own)).polish
    with timed(workspace.run.timing, "polish"):
        record = polish_levels(workspace, section)
    if record.result and workspace.run.evaluation.exists():
        workspace.observer.note("what was evaluated or exported before has the unpolished levels; do these steps again")


def evaluate(
    workspace: Workspace,
    data: str | None = None,
    tokens: int | None = None,
    profile: Path | None = None,
    sequence_length: int | None = None,
) -> dict[str, Any]:
    """Score dense, uniform, knapsack, searched and polished on held-out text, or on any other, and write the result.

    `data` names another text (all of it, or its first `tokens` tokens, in windows of `sequence_length`), `profile` a
    file with another profile that is scored too, as `given`; with either, evaluation.json is left as it is.
    """
    started = time.monotonic()
    scored = score(workspace, shown_profiles(workspace, profile), HeldOut(data, tokens, sequence_length))
    result = scored.record() | {"seconds": round(time.monotonic() - started, 1)}
    if data is None and profile is None:
        write_evaluation(workspace, result)
        workspace.observer.evaluated(result)
    return result


def export(
    workspace: Workspace,
    out: Path | None = None,
    profile: Path | None = None,
    format: str | None = None,
    verify: bool = True,
) -> Path:
    """Write the searched profile, or that of the file `profile`, as a checkpoint and load it to see that it is right.

    `format` is a name from `evopress.export.formats`, by default that of the run's target. Returns the checkpoint's
    directory: `out`, or `export/` in the run, `export-FORMAT/` for another format than the run's own.
    VerificationError when the files have another size than predicted, or other logits than the searched model; then no
    loader accepts the directory.
    """
    config = workspace.config
    chosen = find_format(format or config.format, config.compression.application)
    chosen.check(workspace)
    target = out or workspace.run.export_to(chosen.name)
    found = read_fitting(workspace, profile or workspace.run.profile)
    predicted = chosen.predicted_bytes(workspace, found)
    with staged(target, predicted) as partial:
        chosen.write(workspace, found, partial, lambda done, total: workspace.observer.progress("export", done, total))
        if (written := weight_bytes(partial)) != predicted:
            raise VerificationError(
                f"the weights of {target} take {written} bytes, predicted were {predicted}; report this"
            )
        card = make_card(workspace, chosen, found, target.name, written)
        write_card(partial, card)
    for note in card.notes:
        workspace.observer.note(note)
    if verify:
        result = chosen.verify(workspace, found, target)
        if result.failed:
            withdraw(target)
            raise VerificationError(f"{target} is not the searched model: {result}; report this")
        workspace.observer.note(str(result))
    return target
