"""The one interface between an application and everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch

from evopress.assemble import Load, Slots
from evopress.database.methods import Method
from evopress.profile import Profile
from evopress.search.types import Strategy
from evopress.space import SearchSpace

Tensors = Mapping[str, Callable[[torch.dtype], torch.Tensor]]
"""Parameter name -> what makes its compressed tensor in a dtype."""


@dataclass(frozen=True)
class Stored:
    """A level in the files: all its bits, those without scales and masks, and its layer error, if it has one."""

    bits: int
    codes: int
    error: float | None = None


class Application(Protocol):
    """One way to compress a model, ready to be searched."""

    @property
    def method(self) -> Method | None:
        """How the database's levels are made; None where levels need no database."""

    @property
    def space(self) -> SearchSpace:
        """The profiles that the budget allows."""

    @property
    def references(self) -> dict[str, Profile]:
        """Simple profiles of the same budget by name: results are shown beside them."""

    @property
    def starts(self) -> dict[str, Profile]:
        """Profiles that cheap scores propose, by name: searches start from them. The references are among them."""

    @property
    def start_tokens(self) -> int:
        """What finding `starts` takes, in tokens through a whole model; what the database took is not counted."""

    @property
    def scored_start(self) -> Strategy | None:
        """A strategy whose first batch, on `start_tokens` of the search, proposes a start; None where there is none."""

    @property
    def gammas(self) -> tuple[float, ...]:
        """How much starts from sensitivities distrust them, each a candidate; see `evopress.search.sensitivity`."""

    def baselines(self, rng: Random, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Every other method that applies, by name; `brute`: also all profiles, one by one."""

    def slots(self, load: Load) -> Slots:
        """Where levels go in the live model."""

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """What a profile (None: the dense model) amounts to, `bytes` among it."""

    def stored(self) -> dict[str, dict[str, Stored]]:
        """What each level of each unit, by their names, takes in the files."""

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """The blocks that a checkpoint lacks; those behind them move up."""

    def tensors(self, profile: Profile) -> Tensors:
        """The parameters of blocks that stay that differ from the dense model's, for checkpoints.

        Names are those of the dense model.
        """

    def to_text(self, profile: Profile) -> str:
        """The profile in the official code's text format."""

    def from_text(self, text: str) -> Profile:
        """Read the official code's text format; ProfileError says what does not fit."""
