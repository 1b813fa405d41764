"""The levels' tensors at run time: dense while memory lasts, else dequantized from the packed file when asked for.

A resident level costs a dictionary look-up. Levels become resident in the order of their first use and stay: the
evaluator scans the blocks in a circle, the pattern for which evicting the least recently used would keep nothing.
What does not fit is read through the memory map and dequantized into a new tensor, each time it is asked for.
"""

from __future__ import annotations

import torch

from evopress.database.store import Database, to_parameter


class Bank:
    """Levels of a database as dense tensors on one device, at most `memory` bytes of them kept."""

    def __init__(self, database: Database, device: torch.device, memory: int) -> None:
        self._database, self._device, self.memory = database, device, memory
        self._resident: dict[tuple[str, str, torch.dtype], torch.Tensor] = {}
        self.resident_bytes = 0

    def load(self, unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        """One level of one unit in the layout of the model's parameter."""
        key = (unit, level, dtype)
        if key in self._resident:
            return self._resident[key]
        with torch.inference_mode(False):  # a level that scoring made resident must also serve a backward pass
            packed = self._database.load(unit, level).to(self._device)
            tensor = to_parameter(packed.dequantize(dtype), self._database.manifest.units[unit].view.transposed)
        if self.resident_bytes + tensor.nbytes <= self.memory:
            self._resident[key] = tensor
            self.resident_bytes += tensor.nbytes
        return tensor
