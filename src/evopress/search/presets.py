"""Named search settings: the paper's, and a quick one for a laptop. Change single values with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evopress.core.space import Exchange, SearchSpace
from evopress.errors import ConfigError
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves
from evopress.search.moves.mutation import Mutation, bands, equal_switches, free_switches, mixed, roles

ApplicationName = Literal["bits", "sparsity", "depth"]
"""The paper's three applications."""

StartName = Literal["uniform", "knapsack", "coarse", "sensitivity"]

MutationName = Literal["equal", "free", "bands", "roles", "mixed", "adaptive"]

COARSE_GENERATIONS = 6
"""How many generations the start `coarse` moves few genes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """All settings of an evolutionary search but its budget, data and seed.

    `survivors` and `tokens` have one entry per stage. `mutation` names the move; `band_share` is the part of bands in
    `mixed` and has no meaning for the others; the first `coarse_generations` move whole roles. `exchange` says which
    units trade with each other. `start` and `mutation` may be `auto`, `preselect` and `race` None: see
    `evopress.search.automatic`.
    """

    generations: int | None
    offspring: int
    survivors: tuple[int, ...]
    tokens: tuple[int, ...]
    exchange: Exchange
    mutation: MutationName | Literal["auto"]
    band_share: float = 0.5
    coarse_generations: int = 0
    preselect: int | None = 1
    race: bool | None = False
    start: StartName | Literal["auto"] = "uniform"
    start_candidates: int = 32
    start_tokens: int | None = None


def depth_generations(space: SearchSpace) -> int:
    """k (n - k) / 1.5 for k dropped of n units of a kind: the paper's number of generations for depth (Theorem 3.1)."""
    shares = dict(zip(space.groups, space.shares, strict=True))
    group = max(space.groups, key=len)
    kept = shares[group] * len(group) // max(1, sum(space.costs[unit][-1] for unit in group))
    return max(1, round(kept * (len(group) - kept) / 1.5))


def make_mutation(name: str, band_share: float = 0.5, moves: Mapping[str, Mutation] | None = None) -> Mutation:
    """The mutation of that name; ConfigError lists the names. `adaptive` chooses among `moves`, or default ones."""
    fixed = {"equal": equal_switches, "free": free_switches, "bands": bands, "roles": roles, "mixed": mixed(band_share)}
    if name == "adaptive":
        return AdaptiveMoves(default_moves() if moves is None else moves)  # a new one for each search, as it learns
    if name not in fixed:
        raise ConfigError(f"unknown mutation {name!r}; use one of {', '.join(fixed)}, adaptive")
    return fixed[name]


SUPER_FAST = Preset(
    generations=400,
    offspring=16,
    survivors=(1, 1),
    tokens=(512, 8192),
    exchange="any",
    mutation="equal",
    start="uniform",
)

BITS = {
    "paper": Preset(
        generations=150,
        offspring=128,
        survivors=(16, 4, 1),
        tokens=(2048, 16384, 131072),
        exchange="size",
        mutation="equal",
        start="uniform",
    ),
    "super-fast": replace(SUPER_FAST, exchange="size"),
    "quick": Preset(
        generations=5,
        offspring=16,
        survivors=(3, 1),
        tokens=(512, 4096),
        exchange="any",
        mutation="auto",
        preselect=None,
        race=None,
        start="auto",
    ),
}

SPARSITY = {
    "paper": Preset(
        generations=400,
        offspring=64,
        survivors=(8, 2, 1),
        tokens=(2048, 16384, 65536),
        exchange="any",
        mutation="equal",
        start="uniform",
    ),
    "super-fast": SUPER_FAST,
    "quick": BITS["quick"],
}

DEPTH = {
    "paper": Preset(
        generations=None,
        offspring=32,
        survivors=(2, 1),
        tokens=(2048, 32768),
        exchange="role",
        mutation="equal",
        start="uniform",
        start_candidates=64,
        start_tokens=2048,
    ),
    "super-fast": replace(SUPER_FAST, exchange="role"),
    "quick": Preset(
        generations=15,
        offspring=16,
        survivors=(4, 1),
        tokens=(512, 2048),
        exchange="role",
        mutation="auto",
        preselect=None,
        race=None,
        start="auto",
        start_candidates=32,
        start_tokens=512,
    ),
}

PRESETS: dict[ApplicationName, dict[str, Preset]] = {"bits": BITS, "sparsity": SPARSITY, "depth": DEPTH}
"""`paper` and `super-fast` are the paper's settings; `quick` is for two cores and a small model.

Depth has no fixed number of generations: the paper takes k (n - k) / 1.5 for k of n units.
"""
