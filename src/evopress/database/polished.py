"""A database whose levels of one profile were polished: those lie beside it, and everything else is as it was.

`polished/` in a run directory holds `sweep/`, `blocks/` and `model/`, each a database of its own with one level for a
unit, and polish.json: what is polished and how, from the first moment on, and at the end which of them counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evopress.core.polish_record import read_record
from evopress.core.profile import Profile
from evopress.database.store import Database
from evopress.levels.packed import Packed


class Polished(Database):
    """The levels of `base`, those of the units in `over` replaced, as long as they are asked for by the same name."""

    def __init__(self, base: Database, over: Database) -> None:
        self.directory, self.manifest, self._base, self._over = base.directory, base.manifest, base, over

    def verify(self) -> None:
        """Both parts."""
        self._base.verify()
        self._over.verify()

    def load(self, unit: str, level: str) -> Packed:
        """The packed tensors of one level of one unit."""
        entry = self._over.manifest.units.get(unit)
        own = entry is not None and any(known.name == level for known in entry.levels)
        return (self._over if own else self._base).load(unit, level)


def polished_levels(base: Callable[[], Database] | None, directory: Path, profile: Profile) -> Database | None:
    """`base` with the polished levels of `profile` from `polished/`; None where that was not polished, or in vain.

    Without a `base`, where levels need no database, the polished ones alone.
    """
    record = read_record(directory)
    if record is None or not record.done or record.result is None or record.profile != dict(profile.items()):
        return None
    over = Database(directory / record.result)
    over.require_complete()
    over.verify()
    return over if base is None else Polished(base(), over)


def polished_again(base: Callable[[], Database], first: Path, second: Path, profile: Profile) -> Database | None:
    """The levels of the second round's profile: those polished in `second` over those in `first`; None for others."""
    record, known = read_record(second), read_record(first)
    if record is None or known is None or not record.done or record.profile != dict(profile.items()):
        return None
    before = polished_levels(base, first, Profile.of(known.profile))
    if before is None or record.result is None:
        return before
    return polished_levels(lambda: before, second, profile)
