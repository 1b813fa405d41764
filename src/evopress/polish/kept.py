"""The weights that a depth profile keeps, as levels: others have a database, it has the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from evopress.levels import Packed, Sparse, stored_dtype
from evopress.models import Linear, Runner


class Levels(Protocol):
    """Where levels come from: a `Database`, or what depth keeps."""

    def load(self, unit: str, level: str) -> Packed:
        """A level of a unit."""


@dataclass(frozen=True)
class Kept:
    """The weights of a model as they are, by the names of units, each a level that keeps everything."""

    runner: Runner
    linears: Mapping[str, Linear]

    def load(self, unit: str, level: str) -> Packed:
        """The unit's weight, whatever the level is called."""
        dense = self.runner.weight(self.linears[unit])
        return Sparse.from_dense(dense, torch.ones_like(dense, dtype=torch.uint8), stored_dtype([dense], dense.dtype))
