"""The loop that every search shares: ask, score or replay, record, tell."""

from __future__ import annotations

from collections.abc import Callable

from evopress.core.profile import Profile
from evopress.errors import ConfigError, RunMismatch
from evopress.search.journal import Journal
from evopress.search.stopping import Stopper
from evopress.search.types import Batch, BatchResult, Evaluate, Reread, Strategy


def run_search(
    strategy: Strategy,
    evaluate: Evaluate,
    journal: Journal | None = None,
    on_batch: Callable[[BatchResult], None] | None = None,
    stopper: Stopper | None = None,
) -> Profile:
    """Run a strategy to its end and return its best profile.

    Batches that the journal holds are replayed and not scored again; a new one is on disk before the strategy hears
    of it, so a process killed at any moment loses at most the batch it was scoring. An `evaluate` that draws random
    minibatches must start at minibatch number `journal.batches`. `on_batch` sees every batch, the replayed too.
    `stopper` may end the search before a generation that is not recorded.
    RunMismatch when the journal records other batches than the strategy asks for.
    """
    while (batch := strategy.ask()) is not None:
        recorded = journal.replay(batch) if journal else None
        if recorded is None and stopper and stopper.ends(batch):
            break
        scores = recorded if recorded is not None else _scored(batch, evaluate)
        if len(scores) != len(batch.profiles):
            raise ValueError(f"evaluate gave {len(scores)} scores for {len(batch.profiles)} profiles; one each is due")
        if journal and recorded is None:
            journal.append(batch, scores)
        strategy.tell(scores)
        replayed = recorded is not None
        result = BatchResult(batch, tuple(scores), replayed, strategy.accepted, strategy.best, strategy.score)
        if stopper:
            stopper.saw(result)
        if on_batch:
            on_batch(result)
    if journal and journal.remaining:
        raise RunMismatch(
            f"{journal.path} records {journal.remaining} batches more than this search asks for; "
            "use the same settings or another run directory"
        )
    return strategy.best


def _scored(batch: Batch, evaluate: Evaluate) -> list[float]:
    """The batch's scores, on a fresh minibatch or on the text that it names."""
    if batch.part is None:
        return [float(score) for score in evaluate(batch.profiles, batch.tokens)]
    reread: Reread | None = getattr(evaluate, "reread", None)
    if reread is None:
        raise ConfigError("a race that reuses scores needs an evaluator with `reread`; use Race(reuse=False)")
    return [float(score) for score in reread(batch.profiles, batch.tokens, batch.part)]
