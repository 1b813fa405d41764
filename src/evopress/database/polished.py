"""A database whose levels of one profile were polished: those lie beside it, and everything else is as it was.

`polished/` in a run directory holds `sweep/`, `blocks/` and `model/`, each a database of its own with one level for a
unit, and polish.json: what is polished and how, from the first moment on, and at the end which of them counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from evopress.core.files import write_text
from evopress.core.profile import Profile
from evopress.database.store import Database
from evopress.errors import RunError, SchemaError
from evopress.levels.packed import Packed

SCHEMA = 1
FILE = "polish.json"

Phase = Literal["sweep", "blocks", "model"]


@dataclass(frozen=True)
class PolishRecord:
    """What polish.json says: whose levels, made how (`settings`), and once it is `done` which phase counts, if any.

    `blocks` are each block's errors before and after; `watched` the divergences on the text that decided: `unpolished`,
    `sweep`, `blocks`, and `model 1` and so on after each epoch.
    """

    settings: Mapping[str, Any]
    profile: Mapping[str, str]
    done: bool = False
    result: Phase | None = None
    blocks: tuple[tuple[float, float], ...] = ()
    watched: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def write_record(directory: Path, record: PolishRecord) -> None:
    """Write polish.json."""
    write_text(directory / FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_record(directory: Path) -> PolishRecord | None:
    """What polish.json says; None where there is none, RunError for a damaged one."""
    path = directory / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = int(data["schema"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete {directory} and run the polish step again") from None
    if schema > SCHEMA:
        raise SchemaError(f"{path} has schema {schema}, this evopress reads up to {SCHEMA}; update evopress")
    return PolishRecord(**{**data, "blocks": tuple((before, after) for before, after in data["blocks"])})


def summary(record: PolishRecord) -> str:
    """One line that says what a polish came to."""
    before, *others = record.watched.values()
    if not others:
        return "polish: the levels were made for just these inputs already, so they stay as they are"
    if record.result is None:
        return f"polish: KL on the watched text {before:.4g}, then {min(others):.4g} at best: levels stay as they are"
    return f"polish: KL on the watched text {before:.4g} -> {min(others):.4g} ({record.result})"


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
