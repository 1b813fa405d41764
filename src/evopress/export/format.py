"""The one interface between a file format and everything else; the formats are in the table of `formats`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evopress.errors import BudgetError
from evopress.export.about import About
from evopress.export.shards import Progress
from evopress.export.verification import Verification
from evopress.profile import Profile
from evopress.search.presets import ApplicationName

if TYPE_CHECKING:
    from evopress.workspace import Workspace


@dataclass(frozen=True)
class FileCosts:
    """What the files of an export take at most: `constant` bytes, and for each weight those of its level.

    `levels[unit][level]` counts everything that the choice changes. The sum is never below the true size, and above it
    by no more than paddings and digits in headers, and for dropped parts what llama.cpp's layouts may have to say.
    """

    constant: int
    levels: Mapping[str, Mapping[str, int]]

    def size(self, profile: Profile) -> int:
        """The sum for a profile."""
        return self.constant + sum(self.levels[unit][level] for unit, level in profile.items())


def require_size(size: int, constant: int, costs: Iterable[Sequence[int]], *, stays: int = 0) -> None:
    """BudgetError, with the nearest size, for less than the cheapest profile takes or more than the dearest.

    `costs` are those of each unit's levels, the cheapest first; `stays` is what every profile takes beside `constant`.
    """
    ends = [(own[0], own[-1]) for own in costs]
    low, high = (constant + sum(own) for own in zip(*ends, strict=True))
    if not low + stays <= size <= high:
        raise BudgetError(
            f"no profile takes {size} bytes; the levels allow {low + stays} to {high}, {constant} of them always"
        )


class Format(Protocol):
    """One way to store a searched model. All state is in the arguments."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""

    @property
    def applications(self) -> tuple[ApplicationName, ...]:
        """Whose profiles it can hold."""

    def check(self, workspace: Workspace) -> None:
        """Called before any work: ConfigError, UnsupportedModel or MissingExtra for what it could not write."""

    def predicted_bytes(self, workspace: Workspace, profile: Profile) -> int:
        """The exact size of all files of the export that hold weights, computed without writing them."""

    def costs(self, workspace: Workspace) -> FileCosts:
        """What a budget in bytes adds up; ConfigError where the profile does not change the size."""

    def write(self, workspace: Workspace, profile: Profile, out: Path, progress: Progress) -> None:
        """Write the export into the empty directory `out`, which gets its own name once it is whole (see `staging`).

        The file that loaders look for first is written under `hidden`, or before the weights and then hidden.
        ProfileError or UnsupportedModel for what the format cannot hold, MissingExtra without its packages.
        """

    def about(self, workspace: Workspace, profile: Profile) -> About:
        """How to serve an export of the profile, and what is to be known of it, for its model card."""

    def verify(self, workspace: Workspace, profile: Profile, out: Path) -> Verification:
        """Load `out` as its consumer does and compare the logits with the searched model assembled in memory."""
