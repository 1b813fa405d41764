"""The one interface between a family and everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

from evopress.core.profile import DENSE_BITS, DROP, KEEP, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.database.methods import Method
from evopress.database.store import Database
from evopress.models import SubLayer
from evopress.models.assemble import Load, Slots, Tensors
from evopress.search.moves.mutation import Mutation
from evopress.search.types import Strategy
from evopress.settings.sections import SearchSection


@dataclass(frozen=True)
class Stored:
    """A level in the files: all its bits, those without scales and masks, and its layer error, if it has one."""

    bits: int
    codes: int
    error: float | None = None


class Family(Protocol):
    """One way to compress a model, ready to be searched. It knows no formats: what files cost it is told."""

    @property
    def resizes(self) -> bool:
        """Whether a checkpoint's files are smaller for what is chosen; zeros are stored like other numbers."""

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

    def scored_start(self, tokens: int) -> Strategy | None:
        """A strategy whose first batch, on so many tokens, proposes a start; None where there is none."""

    @property
    def gammas(self) -> tuple[float, ...]:
        """How much starts from sensitivities distrust them, each a candidate; see `search.starts.sensitivity`."""

    @property
    def moves(self) -> Mapping[str, Mutation]:
        """What adaptive mutations choose among, by name."""

    def baselines(self, rng: Random, search: SearchSection, brute: bool) -> dict[str, Callable[[], Strategy]]:
        """Every other method that applies, by name, as long as `search` is; `brute`: also all profiles, one by one."""

    def slots(self, load: Load) -> Slots:
        """Where levels go in the live model."""

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """What a profile (None: the dense model) amounts to, `bytes` of the model among it."""

    def stored(self) -> dict[str, dict[str, Stored]]:
        """What each level of each unit, by their names, takes in the files."""

    def dropped(self, profile: Profile) -> tuple[SubLayer, ...]:
        """The sub-layers that text no longer runs."""

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """The blocks that a checkpoint lacks; those behind them move up."""

    def tensors(self, profile: Profile, database: Database | None) -> Tensors:
        """The parameters of blocks that stay that differ from the dense model's, for checkpoints.

        Names are those of the dense model; levels come from `database`, where there is one.
        """

    def learns(self, profile: Profile) -> dict[str, str]:
        """The linears that a polish may change in the bytes that they have, by name, each with its level."""

    def to_text(self, profile: Profile) -> str:
        """The profile in the official code's text format."""

    def from_text(self, text: str) -> Profile:
        """Read the official code's text format; ProfileError says what does not fit."""


class KeepsSubLayers:
    """The part of a `Family` that says what is not run, where text runs everything."""

    def dropped(self, profile: Profile) -> tuple[SubLayer, ...]:
        """None."""
        return ()

    def left_out(self, profile: Profile) -> tuple[int, ...]:
        """None: all blocks stay."""
        return ()


class LinesOfLevels:
    """The part of a `Family` that reads and writes text, where that is `name: level` lines."""

    def to_text(self, profile: Profile) -> str:
        """`name: level` lines."""
        return profile.to_text()

    def from_text(self, text: str) -> Profile:
        """`name: level` lines."""
        return Profile.from_text(text)


def stored_or_gone(units: Iterable[Unit]) -> dict[str, dict[str, Stored]]:
    """What units take that are kept in half precision, or dropped."""
    bits = {unit.name: DENSE_BITS * unit.size for unit in units}
    return {name: {DROP: Stored(0, 0), KEEP: Stored(kept, kept)} for name, kept in bits.items()}


class StartsFromReferences(ABC):
    """The part of a `Family` that finds starts, where these are its references: layer errors come with the database."""

    @property
    @abstractmethod
    def references(self) -> dict[str, Profile]:
        """As in `Family`."""

    @property
    def starts(self) -> dict[str, Profile]:
        """The references."""
        return self.references

    @property
    def start_tokens(self) -> int:
        """Nothing was scored."""
        return 0

    def scored_start(self, tokens: int) -> Strategy | None:
        """None: the knapsack needs no scores, and what drops do is measured with the sensitivities."""
        return None
