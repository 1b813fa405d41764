"""Building a database block by block, in bounded memory, so that a kill loses at most one unit.

For each block: one pass of the calibration activations with taps on its linears (shared Hessians), one stacked sweep
for each input group, one file for each unit, and one more pass through the compressed block when later blocks shall
see compressed activations. Live are one block's Hessians and levels and the calibration activations. The cost is
one or two forward passes of the calibration text, the Hessians (about one more), and the sweeps. Embedding and head,
where they are units, come before and after the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from evopress.assemble import EMBEDDING, Assembly, weight_slots
from evopress.compress.hessian import Hessian
from evopress.database.manifest import (
    Manifest,
    UnitEntry,
    level_entry,
    read_manifest,
    write_manifest,
)
from evopress.database.methods import Levels, Method
from evopress.database.store import Database
from evopress.errors import ConfigError, DatabaseError
from evopress.files import PARTIAL, replacing, require_disk, sha256
from evopress.models.batches import batches
from evopress.models.capture import collect_inputs
from evopress.models.describe import Linear, ModelMap
from evopress.models.ends import head_unit
from evopress.models.runner import Contexts, Runner
from evopress.models.weights import weight

Progress = Callable[[int, int, str], None]


def planned_bits(model_map: ModelMap, method: Method) -> int:
    """Bits that the tensors of a whole database take, computed without building it."""
    return sum(sum(method.level_bits(linear.name, linear.view.shape).values()) for linear in model_map.linears)


def build_database(
    directory: Path,
    runner: Runner,
    method: Method,
    sequences: Sequence[torch.Tensor],
    fingerprint: Mapping[str, str],
    *,
    batch_tokens: int = 1024,
    progress: Progress = lambda done, total, what: None,
) -> Database:
    """Build, or go on building, the database in `directory` and return it.

    `sequences` are the calibration text, each a 1-D tensor of token ids; RTN takes none. Raises DatabaseError when the
    directory holds a database of another fingerprint or something else, ConfigError without the text that the method
    needs, ResourceError when the disk is too small, BadWeights for NaN.
    """
    if method.needs_text and not len(sequences):
        raise ConfigError("no calibration text, by which these levels are made; give --calibration-tokens 256 or more")
    manifest = _open_or_start(directory, runner.map, method, fingerprint)
    if manifest.complete:
        return Database(directory)
    builder = _Builder(directory, runner, method, manifest)
    steps = runner.map.n_blocks
    builder.embedding()
    activations = (
        [runner.begin(ids.to(runner.device)) for ids in batches(sequences, batch_tokens)] if method.needs_text else []
    )
    contexts = [context for _, context in activations]
    hidden = [state for state, _ in activations]
    for block in range(steps):
        progress(block, steps, f"block {block}")
        hidden = builder.block(block, hidden, contexts)
    builder.head(hidden, contexts)
    progress(steps, steps, "done")
    return Database(directory)


def _open_or_start(directory: Path, model_map: ModelMap, method: Method, fingerprint: Mapping[str, str]) -> Manifest:
    directory.mkdir(parents=True, exist_ok=True)
    names = tuple(linear.name for linear in model_map.linears)
    try:
        manifest = read_manifest(directory)
    except DatabaseError:
        if (directory / "manifest.json").exists():
            raise
        if any(not entry.name.endswith((".lock", PARTIAL)) for entry in directory.iterdir()):
            raise DatabaseError(f"{directory} is not empty and holds no database; give a new directory") from None
        require_disk(directory, planned_bits(model_map, method) // 8, "the database")
        manifest = Manifest(dict(fingerprint), names)
        write_manifest(directory, manifest)
        return manifest
    differs = [key for key in fingerprint if manifest.fingerprint.get(key) != fingerprint[key]]
    if differs or manifest.names != names:
        what = ", ".join(differs) or "the model's units"
        raise DatabaseError(f"the database in {directory} was built from another {what}; use another directory")
    present = {name: entry for name, entry in manifest.units.items() if (directory / entry.file).is_file()}
    return Manifest(manifest.fingerprint, names, present)


class _Builder:
    """The state of one build: the manifest as it grows."""

    def __init__(self, directory: Path, runner: Runner, method: Method, manifest: Manifest) -> None:
        self.directory, self.runner, self.method, self.manifest = directory, runner, method, manifest

    @property
    def _head(self) -> Linear | None:
        """The weight of the head, if it is a unit that is still missing."""
        unit = head_unit(self.runner.model, self.runner.map)
        return None if unit is None or unit.name in self.manifest.units else unit

    def embedding(self) -> None:
        """Make the embedding, whose inputs are no vectors: without Hessian. A head's weight is left to `head`."""
        for unit in self.runner.map.of_block(EMBEDDING):
            if unit.name not in self.manifest.units and unit != self._head:
                self._compress([unit], None)

    def head(self, hidden: list[torch.Tensor], contexts: list[Contexts]) -> None:
        """Make the head from the last block's outputs."""
        unit = self._head
        if unit is None:
            return
        hessian = Hessian(unit.view.shape[1], self.runner.device)
        for state, context in zip(hidden, contexts, strict=True):
            hessian.add(self.runner.finish(state, context).flatten(0, 1))
        self._compress([unit], hessian.matrix if self.method.needs_text else None)

    def block(self, block: int, hidden: list[torch.Tensor], contexts: list[Contexts]) -> list[torch.Tensor]:
        """Make the missing units of one block; returns the activations that the next block sees."""
        linears = list(self.runner.map.of_block(block))
        groups: dict[str, list[Linear]] = {}
        for linear in linears:
            groups.setdefault(linear.input_group, []).append(linear)
        wanted = {
            group: members
            for group, members in groups.items()
            if any(member.name not in self.manifest.units for member in members)
        }
        if not self.method.needs_text:
            for members in wanted.values():
                self._compress(members, None)
            return hidden
        dense_out: list[torch.Tensor] | None = None
        if wanted:
            hessians, dense_out = self._measure(block, wanted, hidden, contexts)
            for group, members in wanted.items():
                self._compress(members, hessians.pop(group))
        if block == self.runner.map.n_blocks - 1 and self._head is None:
            return []
        if self.method.propagate == "dense":
            return dense_out or self._forward(block, hidden, contexts)
        return self._forward_compressed(block, hidden, contexts)

    def _measure(
        self, block: int, groups: Mapping[str, list[Linear]], hidden: list[torch.Tensor], contexts: list[Contexts]
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        device = self.runner.device
        hessians = {group: Hessian(members[0].view.shape[1], device) for group, members in groups.items()}

        def sink(group: str, inputs: torch.Tensor) -> None:
            if group in hessians:
                hessians[group].add(inputs)

        with collect_inputs(self.runner.model, self.runner.map, block, sink):
            outputs = self._forward(block, hidden, contexts)
        return {group: hessian.matrix for group, hessian in hessians.items()}, outputs

    def _forward(self, block: int, hidden: list[torch.Tensor], contexts: list[Contexts]) -> list[torch.Tensor]:
        return [self.runner.block(block, state, context) for state, context in zip(hidden, contexts, strict=True)]

    def _forward_compressed(
        self, block: int, hidden: list[torch.Tensor], contexts: list[Contexts]
    ) -> list[torch.Tensor]:
        database = Database(self.directory)

        def load(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
            return database.dense(unit, level, dtype).to(self.runner.device)

        with Assembly(weight_slots(self.runner.model, self.runner.map, load)) as assembly:
            assembly.use(block, tuple(self.method.propagate for _ in assembly.names(block)))
            return self._forward(block, hidden, contexts)

    def _compress(self, linears: list[Linear], hessian: torch.Tensor | None) -> None:
        """Compress one input group as a whole, as the sweep's bits depend on what is stacked; write what is new."""
        weights = [weight(self.runner.model, linear.view).float() for linear in linears]
        results = self.method.compress([linear.name for linear in linears], weights, hessian)
        for linear, levels in zip(linears, results, strict=True):
            if linear.name not in self.manifest.units:
                self._write(linear, levels)

    def _write(self, linear: Linear, levels: Levels) -> None:
        path = self.directory / f"{linear.name}.safetensors"
        tensors = {
            f"{name}.{key}": tensor.cpu().contiguous()
            for name, level in levels.items()
            for key, tensor in level.tensor.tensors().items()
        }
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors))
        entries = tuple(level_entry(name, level) for name, level in levels.items())
        entry = UnitEntry(linear.name, linear.block, linear.role, linear.view, path.name, sha256(path), entries)
        self.manifest = self.manifest.with_unit(entry)
        write_manifest(self.directory, self.manifest)
