"""Named search settings: the paper's, and a quick one for a laptop. Change single values with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from evopress.errors import ConfigError
from evopress.profile import Profile
from evopress.search.evolution import Evolution
from evopress.search.mutation import Mutation, bands, equal_switches, free_switches, mixed, roles
from evopress.search.stages import validate_schedule
from evopress.space import Exchange, SearchSpace

MutationName = Literal["equal", "free", "bands", "roles", "mixed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """All settings of an evolutionary search but its budget, data and seed.

    `survivors` and `tokens` have one entry per stage. `mutation` names the move; `band_share` is the part of bands in
    `mixed` and has no meaning for the others; the first `coarse_generations` move whole roles. `exchange` says which
    units trade with each other.
    """

    generations: int
    offspring: int
    survivors: tuple[int, ...]
    tokens: tuple[int, ...]
    exchange: Exchange
    mutation: MutationName
    band_share: float = 0.5
    coarse_generations: int = 0
    start_candidates: int = 32
    start_tokens: int | None = None

    def strategy(
        self,
        space: SearchSpace,
        rng: Random,
        *,
        start: Sequence[Profile] | None = None,
        available_tokens: int | None = None,
    ) -> Evolution:
        """The search with these settings; ScheduleError when they do not fit together or with the tokens there are."""
        stages = validate_schedule(
            self.offspring, self.survivors, self.tokens, available_tokens, generations=self.generations
        )
        return Evolution(
            space,
            rng,
            generations=self.generations,
            offspring=self.offspring,
            stages=stages,
            mutate=make_mutation(self.mutation, self.band_share),
            coarse_generations=self.coarse_generations,
            start=start,
            start_candidates=self.start_candidates,
            start_tokens=self.start_tokens,
        )


def make_mutation(name: str, band_share: float = 0.5) -> Mutation:
    """The mutation of that name; ConfigError lists the names."""
    known = {"equal": equal_switches, "free": free_switches, "bands": bands, "roles": roles, "mixed": mixed(band_share)}
    if name not in known:
        raise ConfigError(f"unknown mutation {name!r}; use one of {', '.join(known)}")
    return known[name]


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        generations=150,
        offspring=128,
        survivors=(16, 4, 1),
        tokens=(2048, 16384, 131072),
        exchange="size",
        mutation="equal",
    ),
    "super-fast": Preset(
        generations=400,
        offspring=16,
        survivors=(1, 1),
        tokens=(512, 8192),
        exchange="size",
        mutation="equal",
    ),
    "quick": Preset(
        generations=10,
        offspring=16,
        survivors=(6, 2, 1),
        tokens=(256, 512, 2048),
        exchange="any",
        mutation="mixed",
        band_share=0.8,
        coarse_generations=4,
    ),
}
"""`paper` and `super-fast` are the paper's settings for bits; `quick` is for two cores and a small model."""
