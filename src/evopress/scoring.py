"""Final scores: profiles on one whole text, by KL and perplexity, with what each amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.tokens import Tokens, load_heldout
from evopress.profile import Profile
from evopress.workspace import Workspace


def score_rows(
    workspace: Workspace, profiles: Mapping[str, Profile | None], data: str | None = None, tokens: int | None = None
) -> tuple[dict[str, dict[str, Any]], Tokens]:
    """For each profile (None: the dense model) its perplexity, KL and sizes, and the text that it was scored on.

    That is the run's held-out text, or `data` (its first `tokens` tokens).
    """
    config, text = workspace.config, workspace.splits.heldout
    if data is not None:
        text = load_heldout(data, workspace.loaded.tokenizer, config.data.sequence_length, tokens)
    with workspace.evaluator(text, (KL(), Perplexity()), len(profiles)) as evaluator:
        scores = evaluator.evaluate_all(
            list(profiles.values()),
            lambda done, total: workspace.observer.progress("evaluate", done, total, text.source),
        )
    rows = {
        name: {"perplexity": perplexity, "kl": kl, **workspace.application.sizes(profile)}
        for (name, profile), kl, perplexity in zip(profiles.items(), scores.scores(0), scores.scores(1), strict=True)
    }
    return rows, text
