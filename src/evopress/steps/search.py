"""The step `search`: database, search text and budget become the profile."""

from __future__ import annotations

import time

from evopress.core.profile import Profile
from evopress.run.progress import Progress
from evopress.run.records import journal_header, seconds_of, timed, write_profile, write_space
from evopress.search import Journal, Stopper, run_search
from evopress.search.types import Strategy
from evopress.steps.strategies import make_strategy, warm_up
from evopress.steps.workspace import Workspace


def search(workspace: Workspace) -> Profile:
    """Search the space, or go on from the journal, and write profile.json."""
    if text := workspace.config.search.automatic_text:
        workspace.observer.note(text)
    with timed(workspace.run.timing, "search"):
        profile, strategy, stopper = _search(workspace)
    stopped = stopper.reason or strategy.stopped or "all generations are done"
    workspace.observer.note(f"the search ended: {stopped}")
    save(workspace, profile, strategy.score, stopper.tokens, stopped)
    return profile


def save(workspace: Workspace, profile: Profile, score: float, tokens: int, stopped: str) -> None:
    """Write profile.json and profile.txt; `stopped` says what ended the search."""
    config, space = workspace.config, workspace.space
    record = {
        "profile": dict(profile.items()),
        "budget": config.budget.model_dump() | {"limit": space.budget, "cost": space.cost(profile)},
        **workspace.sizes(profile),
        "fitness": {"name": config.search.fitness, "score": score, "tokens": tokens, "stopped": stopped},
        "seed": config.search.seed,
        "fingerprints": workspace.fingerprints | {"search": workspace.splits.search.fingerprint},
    }
    write_profile(workspace.run, workspace.family.to_text(profile), record)


def _search(workspace: Workspace) -> tuple[Profile, Strategy, Stopper]:
    config, text, started = workspace.config, workspace.splits.search, time.monotonic()
    measures = (workspace.measure,)  # an unknown one is an error before any work
    warmup = warm_up(workspace, config.search.seed)
    strategy = make_strategy(workspace, warmup, config.search.seed)
    write_space(workspace.run.space, workspace.space, workspace.family.stored(), workspace.map.share)
    before = seconds_of(workspace.run.timing, "search") + time.monotonic() - started
    observer = Progress(workspace.run.progress, workspace.observer, seconds=before)
    header = journal_header(config, workspace.fingerprints | {"search text": text.fingerprint})
    stopper = Stopper(config.search.limits, tokens=warmup.tokens, seconds=observer.before)
    with (
        Journal(workspace.run.journal, seed=config.search.seed, fingerprint=header) as journal,
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
