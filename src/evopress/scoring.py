"""Final scores: profiles on one whole text, by KL and perplexity, with what each amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evopress.errors import ConfigError
from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Scores
from evopress.fitness.loading import load_heldout
from evopress.fitness.resampling import uncertainty
from evopress.fitness.tokens import Tokens
from evopress.models.load import require_positions
from evopress.profile import Profile
from evopress.workspace import Workspace


@dataclass(frozen=True)
class HeldOut:
    """Which text to score on: the run's held-out one, or `data` (its first `tokens` tokens) in windows of `length`."""

    data: str | None = None
    tokens: int | None = None
    length: int | None = None

    def load(self, workspace: Workspace) -> Tokens:
        """Its tokens; ConfigError where `tokens` or `length` are given without `data`."""
        if self.data is None:
            for flag, value in (("--tokens", self.tokens), ("--sequence-length", self.length)):
                if value is not None:
                    raise ConfigError(f"{flag} is {value} but there is no --data; the run's own held-out text is fixed")
            return workspace.splits.heldout
        length = workspace.config.data.sequence_length if self.length is None else self.length
        require_positions(workspace.loaded.model, length)
        return load_heldout(self.data, workspace.loaded.tokenizer, length, self.tokens, workspace.bos)


@dataclass(frozen=True)
class Scored:
    """`rows` has for each profile its perplexity, KL and sizes; `scores` the sums for each sequence of `text`."""

    rows: dict[str, dict[str, Any]]
    scores: Scores
    text: Tokens

    def record(self) -> dict[str, Any]:
        """What evaluation.json holds of it."""
        return {
            "profiles": self.rows,
            "uncertainty": uncertainty(list(self.rows), self.scores),
            "data": self.text.record(),
            "tokens": self.text.total,
        }


def score(workspace: Workspace, profiles: Mapping[str, Profile | None], where: HeldOut) -> Scored:
    """Score profiles (None: the dense model) by KL and perplexity on a whole text."""
    text = where.load(workspace)
    with workspace.evaluator(text, (KL(), Perplexity()), len(profiles)) as evaluator:
        scores = evaluator.evaluate_all(
            list(profiles.values()),
            lambda done, total: workspace.observer.progress("evaluate", done, total, text.source),
        )
    rows = {
        name: {"perplexity": perplexity, "kl": kl, **workspace.application.sizes(profile)}
        for (name, profile), kl, perplexity in zip(profiles.items(), scores.scores(0), scores.scores(1), strict=True)
    }
    return Scored(rows, scores, text)
