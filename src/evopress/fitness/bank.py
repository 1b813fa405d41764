"""The levels' tensors at run time: dense while memory lasts, then packed, else read from the file when asked for.

Three tiers under one stated memory. A dense level costs a dictionary look-up; a packed one a dequantization into a new
tensor; one that is not resident also a read through the memory map. Every level's packed form has its place before any
level is dense: reading a file in the inner loop is what costs most. Levels become resident in the order of their first
use and stay: the evaluator scans the blocks in a circle, the pattern for which evicting the least recently used would
keep nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from evopress.database.store import Database, to_parameter

if TYPE_CHECKING:
    from evopress.levels.packed import Packed

Key = tuple[str, str]
"""Unit and level."""


class Bank:
    """Levels of a database on one device, at most `memory` bytes of them kept, all in the dtype first asked for."""

    def __init__(self, database: Database, device: torch.device, memory: int) -> None:
        self._database, self._device, self.memory = database, device, memory
        self._dense: dict[Key, torch.Tensor] = {}
        self._packed: dict[Key, Packed] = {}
        self._waiting: dict[Key, int] | None = None
        self.resident_bytes = 0

    def load(self, unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        """One level of one unit in the layout of the model's parameter."""
        key = unit, level
        tensor = self._dense.get(key)
        if tensor is not None and tensor.dtype == dtype:
            return tensor
        with torch.inference_mode(False):  # a level that scoring made resident must also serve a backward pass
            packed = self._packed.get(key) or self._database.load(unit, level).to(self._device)
            tensor = to_parameter(packed.dequantize(dtype), self._database.manifest.units[unit].view.transposed)
            self._keep(key, packed, tensor)
        return tensor

    def _keep(self, key: Key, packed: Packed, tensor: torch.Tensor) -> None:
        """Make a level resident that is seen for the first time, in the form for which there is room."""
        if self._waiting is None:
            self._waiting = self._smallest(tensor.dtype.itemsize)
            self._reserved = sum(self._waiting.values())
        if key not in self._waiting:
            return
        self._reserved -= self._waiting.pop(key)
        stored = packed.storage_bits // 8
        if self.resident_bytes + tensor.nbytes + self._reserved <= self.memory:
            self._dense[key] = tensor
            self.resident_bytes += tensor.nbytes
        elif stored < tensor.nbytes and self.resident_bytes + stored <= self.memory:
            self._packed[key] = self._copied(key, packed.tensors())
            self.resident_bytes += stored

    def _smallest(self, itemsize: int) -> dict[Key, int]:
        """Each level's bytes in its smaller form."""
        units = self._database.manifest.units.values()
        return {
            (unit.name, level.name): min(level.storage_bits // 8, unit.size * itemsize)
            for unit in units
            for level in unit.levels
        }

    def _copied(self, key: Key, tensors: Mapping[str, torch.Tensor]) -> Packed:
        """A packed level in memory of its own: pages of a mapped file may be dropped at any time."""
        entry = self._database.manifest.units[key[0]]
        return entry.level(key[1]).restore({name: t.clone() for name, t in tensors.items()}, entry.view.shape)
