"""Reading a database: lazy, memory-mapped, checked once before it is trusted. And writing one of its files.

Opening costs nothing but the manifest; `verify` reads every file once (about a second for each gigabyte); a level's
tensors are read when asked for. Nothing here keeps them: what stays in memory is the bank's decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from evopress.core.files import replacing, sha256
from evopress.database.manifest import Manifest, UnitEntry, level_entry, read_manifest
from evopress.errors import ChecksumError, DatabaseError
from evopress.levels.packed import Compressed, Packed
from evopress.models.describe import Linear


class Database:
    """A directory of compressed levels, one safetensors file for each unit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest: Manifest = read_manifest(directory)

    def require_complete(self) -> None:
        """DatabaseError unless the build has ended."""
        have, want = len(self.manifest.units), len(self.manifest.names)
        if have < want:
            raise DatabaseError(
                f"the database in {self.directory} has {have} of {want} units; run the build step again"
            )

    def verify(self) -> None:
        """Compare every file with its checksum; ChecksumError names the first that differs or is missing."""
        for entry in self.manifest.units.values():
            path = self.directory / entry.file
            if not path.is_file():
                raise ChecksumError(f"{path} is missing; run the build step again")
            if sha256(path) != entry.sha256:
                raise ChecksumError(f"{path} is damaged (checksum differs); delete it and run the build step again")

    def load(self, unit: str, level: str) -> Packed:
        """The packed tensors of one level of one unit."""
        entry = self.manifest.units.get(unit)
        if entry is None:
            raise DatabaseError(f"the database in {self.directory} has no unit {unit!r}")
        found = entry.level(level)
        with safe_open(self.directory / entry.file, framework="pt") as file:
            prefix = f"{level}."
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - the file is no dict
            tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
        return found.restore(tensors, entry.view.shape)

    def dense(self, unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        """One level of one unit as a dense tensor in the layout of the model's parameter."""
        return to_parameter(self.load(unit, level).dequantize(dtype), self.manifest.units[unit].view.transposed)


def to_parameter(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    """(out, in) -> the layout of the parameter that stores it (GPT-2's Conv1D stores the transpose)."""
    return weight.T.contiguous() if transposed else weight


def write_unit(directory: Path, linear: Linear, levels: Mapping[str, Compressed[Packed]]) -> UnitEntry:
    """Write the file of a unit's levels, atomically; returns what a manifest says of it."""
    path = directory / f"{linear.name}.safetensors"
    tensors = {
        f"{name}.{key}": tensor.cpu().contiguous()
        for name, level in levels.items()
        for key, tensor in level.tensor.tensors().items()
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors))
    entries = tuple(level_entry(name, level) for name, level in levels.items())
    return UnitEntry(linear.name, linear.block, linear.role, linear.view, path.name, sha256(path), entries)
