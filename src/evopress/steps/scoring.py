"""Final scores: profiles on one whole text, by KL and perplexity, with what each amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evopress.core.profile import Profile
from evopress.errors import ConfigError
from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Scores
from evopress.fitness.resampling import uncertainty
from evopress.models.load import require_positions
from evopress.run.records import read_fitting, read_profile
from evopress.run.wording import final
from evopress.steps.workspace import Workspace
from evopress.text.loading import load_heldout
from evopress.text.sources import require_source
from evopress.text.tokens import Tokens

POLISHED = {"uniform polished": "uniform", "polished": "searched"}
"""Rows of profiles with their polished levels: those that have the same profile with the database's."""


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
        require_source(self.data)
        section = workspace.config.data
        length = section.sequence_length if self.length is None else self.length
        require_positions(workspace.loaded.model, length)
        tokenizer = workspace.loaded.tokenizer
        return load_heldout(self.data, tokenizer, length, self.tokens, workspace.bos, section.text_field)


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
            "uncertainty": uncertainty(list(self.rows), self.scores, of=final(self.rows)),
            "data": self.text.record(),
            "tokens": self.text.total,
        }


def shown_profiles(workspace: Workspace, given: Path | None = None) -> dict[str, Profile | None]:
    """What is scored of a run: the dense model (None), its references, the searched profile, the rows of `POLISHED`
    where a polish helped, and the one of the file `given`.
    """
    searched = read_profile(workspace.run.profile)
    profiles: dict[str, Profile | None] = {"dense": None, **workspace.family.references, "searched": searched}
    own = {name: profiles.get(row) for name, row in POLISHED.items()}
    profiles |= {name: profile for name, profile in own.items() if profile and workspace.polished(profile)}
    if given is None:
        return profiles
    return profiles | {"given": read_fitting(given, workspace.space, workspace.family.from_text)}


def score(workspace: Workspace, profiles: Mapping[str, Profile | None], where: HeldOut) -> Scored:
    """Score profiles (None: the dense model) by KL and perplexity on a whole text; POLISHED's have such levels."""
    text, measures = where.load(workspace), (KL(), Perplexity())
    plain = {name: profile for name, profile in profiles.items() if name not in POLISHED}

    def told(done: int, total: int) -> None:
        workspace.observer.progress("evaluate", done, total, text.source)

    with workspace.evaluator(text, measures, len(profiles)) as evaluator:
        scores = evaluator.evaluate_all(list(plain.values()), told)
    order = list(plain)
    for name, polished in profiles.items():
        if name in POLISHED and polished is not None:
            with workspace.evaluator(text, measures, 1, polished=polished) as other:
                other.teacher = evaluator.teacher
                own = other.evaluate_all([polished])
            scores = replace(own, sums=torch.cat([scores.sums, own.sums]))
            order.append(name)
    scores = replace(scores, sums=scores.sums[[order.index(name) for name in profiles]])
    rows = {
        name: {"perplexity": perplexity, "kl": kl, **workspace.sizes(profile)}
        for (name, profile), kl, perplexity in zip(profiles.items(), scores.scores(0), scores.scores(1), strict=True)
    }
    return Scored(rows, scores, text)
