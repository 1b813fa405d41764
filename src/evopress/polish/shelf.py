"""Polished levels on their way to the disk, block by block, so that a kill loses at most one block."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from evopress.core.files import replacing, write_text
from evopress.database.manifest import Manifest, read_manifest, write_manifest
from evopress.database.store import Database, write_unit
from evopress.errors import DatabaseError
from evopress.levels.packed import Compressed, Packed
from evopress.models.describe import Linear
from evopress.polish.blocks import Outcome

OUTCOMES = "outcomes.json"
STATE = "state.safetensors"


class Shelf:
    """A database of one level for each of `linears`, in `directory`, that grows by whole blocks.

    A level's `error` in the manifest is the relative error of its block's outputs, or 0 where that was not measured.
    """

    def __init__(self, directory: Path, linears: Sequence[Linear], levels: Mapping[str, str]) -> None:
        self.directory, self.linears, self.levels = directory, linears, levels
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._manifest = read_manifest(directory)
        except DatabaseError:
            if (directory / "manifest.json").exists():
                raise
            self._manifest = Manifest({}, tuple(linear.name for linear in linears))
            write_manifest(directory, self._manifest)

    @property
    def database(self) -> Database:
        """What has been written so far."""
        return Database(self.directory)

    def has(self, linears: Sequence[Linear]) -> bool:
        """Whether all of these are written."""
        return all(linear.name in self._manifest.units for linear in linears)

    def learned(self, block: int, linears: Sequence[Linear]) -> bool:
        """Whether a block is done with; one of which nothing is left has no linears, but an outcome."""
        return block in self.outcomes() and self.has(linears)

    def outcomes(self) -> dict[int, Outcome]:
        """Block -> what learning it came to."""
        path = self.directory / OUTCOMES
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {int(block): Outcome(*errors) for block, errors in known.items()}

    def write(self, block: int, packed: Mapping[str, Packed], outcome: Outcome | None = None) -> None:
        """Write the levels of a block, by their parameters' names; the manifest last."""
        if outcome is not None:
            known = self.outcomes() | {block: outcome}
            text = json.dumps({str(number): [own.before, own.after] for number, own in known.items()})
            write_text(self.directory / OUTCOMES, text + "\n")
        manifest, error = self._manifest, 0.0 if outcome is None else outcome.after
        for linear in self.linears:
            if linear.block == block:
                level = Compressed(packed[linear.view.parameter], error, 0.0)
                manifest = manifest.with_unit(write_unit(self.directory, linear, {self.levels[linear.name]: level}))
        self._manifest = manifest
        write_manifest(self.directory, manifest)


def write_state(directory: Path, tensors: Mapping[str, torch.Tensor], watched: Sequence[float]) -> None:
    """Write the state of learning a model, atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(directory / STATE) as temporary:
        temporary.write_bytes(save(stored, {"watched": json.dumps(list(watched))}))


def read_state(directory: Path) -> tuple[dict[str, torch.Tensor], list[float]] | None:
    """What `write_state` wrote; None where there is nothing."""
    if not (directory / STATE).exists():
        return None
    with safe_open(directory / STATE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
        return tensors, json.loads(file.metadata()["watched"])
