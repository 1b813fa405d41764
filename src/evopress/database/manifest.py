"""The manifest: what a database holds, from which model, by which method, with which errors.

It is the only index: a unit exists when its entry is here, and a file without an entry is ignored. It is rewritten
atomically after every unit, so a killed build continues at the first missing one. It holds no times and no paths, so
that two builds of the same thing are the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from evopress.core.files import write_text
from evopress.errors import DatabaseError, SchemaError
from evopress.levels.ggml import Ggml
from evopress.levels.grid import Grid
from evopress.levels.packed import Compressed, Packed
from evopress.levels.quantized import Quantized
from evopress.levels.sparse import Sparse
from evopress.models.describe import WeightView

SCHEMA = 3
FILE = "manifest.json"


@dataclass(frozen=True)
class LevelEntry:
    """One level of one unit: quantized on `grid` or to a `ggml` type, or pruned (neither) to `zeros` dropped weights.

    `code_bits` are those of the codes or kept values alone, `storage_bits` of all that is stored. `error` is
    ||(W - Wc) X||^2 / ||W X||^2, `damping` what the sweep used.
    """

    name: str
    grid: Grid | None
    zeros: int
    code_bits: int
    storage_bits: int
    error: float
    damping: float
    ggml: str | None = None

    def restore(self, tensors: Mapping[str, torch.Tensor], shape: tuple[int, int]) -> Packed:
        """The packed form of the level of a weight of `shape` from its stored tensors."""
        if self.ggml is not None:
            return Ggml.from_tensors(tensors, shape, self.ggml)
        if self.grid is None:
            return Sparse.from_tensors(tensors, shape, self.zeros)
        return Quantized.from_tensors(tensors, shape, self.grid)


def level_entry(name: str, level: Compressed[Packed]) -> LevelEntry:
    """What the manifest says of a level."""
    packed = level.tensor
    if isinstance(packed, Quantized):
        return LevelEntry(name, packed.grid, 0, packed.code_bits, packed.storage_bits, level.error, level.damping)
    if isinstance(packed, Sparse):
        kept = packed.values.nbytes * 8
        return LevelEntry(name, None, packed.zeros, kept, packed.storage_bits, level.error, level.damping)
    if isinstance(packed, Ggml):
        bits = packed.storage_bits
        return LevelEntry(name, None, 0, bits, bits, level.error, level.damping, packed.type)
    raise TypeError(f"level {name} is a {type(packed).__name__}; the database stores Quantized, Sparse and Ggml")


@dataclass(frozen=True)
class UnitEntry:
    """One unit: where its weight is in the model, and the file that holds all its levels.

    `tokens` are those of the calibration text that a router sent to an expert; None for what sees them all.
    """

    name: str
    block: int
    role: str
    view: WeightView
    file: str
    sha256: str
    levels: tuple[LevelEntry, ...]
    tokens: int | None = None

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.view.size

    def level(self, name: str) -> LevelEntry:
        """The level called `name`; DatabaseError lists those that exist."""
        for level in self.levels:
            if level.name == name:
                return level
        known = ", ".join(level.name for level in self.levels)
        raise DatabaseError(f"the database has no level {name!r} for {self.name}; it has {known}")


@dataclass(frozen=True)
class Manifest:
    """A database's table of contents. `fingerprint` maps model, method and calibration to their digests."""

    fingerprint: Mapping[str, str]
    names: tuple[str, ...]
    units: Mapping[str, UnitEntry] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def complete(self) -> bool:
        """Whether every unit is there."""
        return len(self.units) == len(self.names)

    def with_unit(self, entry: UnitEntry) -> Manifest:
        """A copy that also holds `entry`."""
        return replace(self, units={**self.units, entry.name: entry})


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically, a line for each unit, in the model's order whatever the order of the build.

    A build writes it once for each unit, so the lines of units that are done are not made again.
    """
    head = {"schema": manifest.schema, "fingerprint": manifest.fingerprint, "names": manifest.names}
    units = (manifest.units[name] for name in manifest.names if name in manifest.units)
    lines = ",\n".join(f"{json.dumps(unit.name)}: {_line(unit)}" for unit in units)
    write_text(directory / FILE, f'{json.dumps(head)[:-1]},\n"units": {{\n{lines}\n}}}}\n')


@lru_cache(maxsize=10_000)
def _line(unit: UnitEntry) -> str:
    fields = asdict(unit)
    return json.dumps({name: value for name, value in fields.items() if name != "tokens" or value is not None})


def read_manifest(directory: Path) -> Manifest:
    """Read `manifest.json`; DatabaseError when it is missing or damaged, SchemaError when it is of a newer version."""
    path = directory / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = int(data["schema"])
    except FileNotFoundError:
        raise DatabaseError(f"no database in {directory}: {FILE} is missing; run the build step first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{path} is damaged ({error}); delete the database and build it again") from None
    if schema > SCHEMA:
        raise SchemaError(f"{path} has schema {schema}, this evopress reads up to {SCHEMA}; update evopress")
    try:
        units = {name: _unit(entry) for name, entry in data["units"].items()}
        return Manifest(data["fingerprint"], tuple(data["names"]), units, schema)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatabaseError(f"{path} is damaged ({error!r}); delete the database and build it again") from None


def _unit(data: dict[str, Any]) -> UnitEntry:
    levels = tuple(LevelEntry(**{**level, "grid": level["grid"] and Grid(**level["grid"])}) for level in data["levels"])
    view = WeightView(**{**data["view"], "shape": tuple(data["view"]["shape"])})
    return UnitEntry(**{**data, "levels": levels, "view": view})
