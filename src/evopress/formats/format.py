"""The one interface between a file format and everything else; the formats are in the table of `formats`.

What a format works on is data: a `Source`, which is known before anything is searched, and the `Content` that a profile
makes of it. Both can be made for any model without a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evopress.core.costs import FileCosts
from evopress.core.profile import Profile
from evopress.database.store import Database
from evopress.formats.about import About
from evopress.formats.shards import Progress
from evopress.formats.verification import Searched, Verification
from evopress.models import LoadedModel, ModelMap, SubLayer
from evopress.models.assemble import Tensors
from evopress.search.presets import ApplicationName
from evopress.settings.sections import Compression


def nothing_left_out(dropped: Collection[str]) -> tuple[int, ...]:
    """The blocks that files lack where nothing can be dropped."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is compressed, and what it was asked for: the `sections` of the families that are searched together, and the
    `target`, the runtime, if it is known.

    `parts` are the sub-layers of each unit that can be dropped; `left_out` says which blocks files lack when some of
    them are, by name.
    """

    loaded: LoadedModel
    map: ModelMap
    sections: tuple[Compression, ...]
    target: str | None = None
    parts: Mapping[str, tuple[SubLayer, ...]] = field(default_factory=dict)
    left_out: Callable[[Collection[str]], tuple[int, ...]] = nothing_left_out

    @property
    def section(self) -> Compression:
        """That of the first family: weights have its levels, if it gives them any."""
        return self.sections[0]


@dataclass(frozen=True, kw_only=True)
class Content:
    """A profile as files hold it: the sub-layers that are `dropped`, the blocks that are `left_out` with all of theirs,
    the `experts` that stay (layer -> their numbers) where some go, the `tensors` that are others than the dense
    model's, and the packed levels where there is a `database`.
    """

    profile: Profile
    tensors: Tensors = field(default_factory=dict)
    dropped: tuple[SubLayer, ...] = ()
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    database: Database | None = None

    @property
    def levels(self) -> Database:
        """The database; only profiles of formats with packed levels need one."""
        assert self.database is not None
        return self.database


class Format(Protocol):
    """One way to store a searched model. All state is in the arguments."""

    @property
    def name(self) -> str:
        """What `--format` calls it."""

    @property
    def holds(self) -> tuple[tuple[ApplicationName, ...], ...]:
        """The families whose profiles it can hold, alone or together."""

    def check(self, source: Source) -> None:
        """Called before any work: ConfigError, UnsupportedModel or MissingExtra for what it could not write."""

    def predicted_bytes(self, source: Source, content: Content) -> int:
        """The exact size of all files of the export that hold weights, computed without writing them."""

    def costs(self, source: Source) -> FileCosts:
        """What a budget in bytes adds up; ConfigError where the profile does not change the size."""

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """Write the export into the empty directory `out`, which gets its own name once it is whole (see `staging`).

        The file that loaders look for first is written under `hidden`, or before the weights and then hidden.
        ProfileError or UnsupportedModel for what the format cannot hold, MissingExtra without its packages.
        """

    def about(self, source: Source, content: Content) -> About:
        """How to serve an export of the profile, and what is to be known of it, for its model card."""

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load `out` as its consumer does and compare the logits with those of the searched model in memory."""
