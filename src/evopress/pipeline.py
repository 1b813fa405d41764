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

from evopress.core.profile import Profile
from evopress.formats.formats import find_format
from evopress.formats.staging import is_whole
from evopress.polish.again import first_profile, second_round
from evopress.polish.step import polish_levels
from evopress.report import write_report
from evopress.run.directory import RunDirectory, locked, require_run_or_empty, start_run
from evopress.run.observer import Observer
from evopress.run.records import read_json, read_profile, timed, write_evaluation
from evopress.run.trackers import tracked
from evopress.settings.config import Config
from evopress.settings.resolve import resolve, resolve_polish
from evopress.steps.build import build as build
from evopress.steps.export import export as export
from evopress.steps.opened import LossFunction
from evopress.steps.scoring import HeldOut, score, shown_profiles
from evopress.steps.search import search as search
from evopress.steps.workspace import Workspace
from evopress.text.sources import require_source

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

    `options` are the budget and the fields of `evopress.settings.sections` by name. `fitness` is a name or a function
    of (teacher logits, student logits), both (tokens, vocabulary), that returns one loss a token.
    `use=("bits", "depth")` searches levels and drops together, under a budget of `bits`, `bpw` or `size`. `track` names
    trackers of `evopress.run.trackers` that log the search.
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
            find_format(config.format, config.families).check(workspace.plain_source)
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


def polish(workspace: Workspace, what: str | None = None, rounds: int | None = None) -> None:
    """Learn the levels of the searched profile: `what` as --polish takes it, by default what the run's settings say.

    With two `rounds` the search then goes on from what was learned. RunError without a searched profile; the errors of
    `polish_levels`.
    """
    own, run, profile = workspace.config.polish.polish, workspace.run, first_profile(workspace.run)
    section = resolve_polish(workspace.config, what or ("auto" if own == "none" else own), rounds).polish
    with timed(run.timing, "polish"):
        record = polish_levels(workspace, section, profile, run.polished)
        uniform = workspace.family.references.get("uniform")
        if section.polish_uniform and uniform is not None and uniform != profile:
            workspace.observer.note("polish: the uniform profile, too")
            polish_levels(workspace, section, uniform, run.polished_uniform)
        if section.rounds > 1:
            record = second_round(workspace, section, record)
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
        write_evaluation(workspace.run.evaluation, result)
        workspace.observer.evaluated(result)
    return result
