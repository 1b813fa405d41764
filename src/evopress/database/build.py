"""Building a database block by block, in bounded memory, so that a kill loses at most one unit.

For each block: one pass of the calibration activations with taps on its linears (shared Hessians), one stacked sweep
for each input group, one file for each unit, and one more pass through the compressed block when later blocks shall
see compressed activations. Live are one block's Hessians and levels and the calibration activations. The cost is
one or two forward passes of the calibration text, the Hessians (about one more), and the sweeps. Embedding and head,
where they are units, come before and after the blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evopress.core.files import PARTIAL, require_disk
from evopress.database.manifest import Manifest, read_manifest, write_manifest
from evopress.database.methods import Levels, Method, corrects
from evopress.database.store import Database, write_unit
from evopress.errors import ConfigError, DatabaseError
from evopress.levels.hessian import Hessian, lean_on_each_other
from evopress.models.assemble import EMBEDDING, Assembly, weight_slots
from evopress.models.batches import batches
from evopress.models.capture import Rows, collect_inputs
from evopress.models.describe import Linear, ModelMap
from evopress.models.ends import head_unit
from evopress.models.runner import Contexts, Runner

Progress = Callable[[int, int, str], None]


def planned_bits(model_map: ModelMap, method: Method) -> int:
    """Bits that the tensors of a whole database take, computed without building it."""
    return sum(sum(method.level_bits(linear.name, linear.view.shape).values()) for linear in model_map.linears)


def stored_bits(model_map: ModelMap, method: Method) -> list[float]:
    """Stored bits a weight of the whole model at each level."""
    weights = sum(linear.view.size for linear in model_map.linears)
    bits: Counter[str] = Counter()
    for linear in model_map.linears:
        bits.update(method.level_bits(linear.name, linear.view.shape))
    return [own / weights for own in bits.values()]


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
    states = (
        [_State.of(runner.begin(ids.to(runner.device))) for ids in batches(sequences, batch_tokens)]
        if method.needs_text
        else []
    )
    for block in range(steps):
        progress(block, steps, f"block {block}")
        builder.block(block, states)
    builder.head(states)
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


@dataclass
class _State:
    """A batch of calibration text on its way through the blocks: inputs of the next one, (batch, length, width).

    `hidden` is what that block sees, `uncompressed` what it would see in the uncompressed model.
    """

    contexts: Contexts
    hidden: torch.Tensor
    uncompressed: torch.Tensor

    @classmethod
    def of(cls, begun: tuple[torch.Tensor, Contexts]) -> _State:
        """A batch before the first block."""
        return cls(begun[1], begun[0], begun[0])

    def streams(self, both: bool) -> list[torch.Tensor]:
        """The inputs to look at: `hidden`, and the uncompressed ones if `both` are needed."""
        return [self.hidden, self.uncompressed] if both else [self.hidden]


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

    def head(self, states: list[_State]) -> None:
        """Make the head from the last block's outputs."""
        unit = self._head
        if unit is None:
            return
        hessian = Hessian(unit.view.shape[1], self.runner.device)
        for state in states:
            streams = state.streams(corrects(self.method))
            hessian.add(*(self.runner.finish(hidden, state.contexts).flatten(0, 1) for hidden in streams))
        self._compress([unit], hessian if self.method.needs_text else None)

    def block(self, block: int, states: list[_State]) -> None:
        """Make the missing units of one block, and let the `states` pass through it."""
        linears = list(self.runner.map.of_block(block))
        groups: dict[str, list[Linear]] = {}
        for linear in linears:
            groups.setdefault(linear.input_group, []).append(linear)
        missing = {linear for linear in linears if linear.name not in self.manifest.units}
        layers = {linear.experts for linear in missing if linear.experts}  # experts lean on all others of their layer
        wanted = {
            group: members
            for group, members in groups.items()
            if not missing.isdisjoint(members) or members[0].experts in layers
        }
        if not self.method.needs_text:
            for members in wanted.values():
                self._compress(members, None)
            return
        dense = self.method.propagate == "dense"
        if wanted or dense or corrects(self.method):
            hessians = self._measure(block, wanted, states)
            for kind in _kinds_of_experts(wanted):
                lean_on_each_other([hessians[group] for group in kind])
            for group, members in wanted.items():
                self._compress(members, hessians.pop(group))
        if not dense and (block < self.runner.map.n_blocks - 1 or self._head is not None):
            self._advance_compressed(block, states)

    def _measure(self, block: int, groups: Mapping[str, list[Linear]], states: list[_State]) -> dict[str, Hessian]:
        """The Hessians of input groups; the uncompressed streams of the `states` go on to the next block."""
        hessians = {group: Hessian(members[0].view.shape[1], self.runner.device) for group, members in groups.items()}
        for state in states:
            seen, outputs = [], []
            for hidden in state.streams(corrects(self.method)):
                seen.append(Rows(groups))
                with collect_inputs(self.runner.model, self.runner.map, block, seen[-1]):
                    outputs.append(self.runner.block(block, hidden, state.contexts))
            for group, members in groups.items():  # a router sends other tokens to an expert in the uncompressed model
                hessians[group].add(*(rows.of(group) for rows in seen[: 1 if members[0].experts else 2]))
            state.uncompressed = outputs[-1]
            if self.method.propagate == "dense":
                state.hidden = state.uncompressed
        return hessians

    def _advance_compressed(self, block: int, states: list[_State]) -> None:
        """Let the `states` pass through the block with the levels that later blocks see."""
        database = Database(self.directory)

        def load(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
            return database.dense(unit, level, dtype).to(self.runner.device)

        with Assembly(weight_slots(self.runner.model, self.runner.map, load)) as assembly:
            assembly.use(block, tuple(self.method.seen(name) for name in assembly.names(block)))
            for state in states:
                state.hidden = self.runner.block(block, state.hidden, state.contexts)

    def _compress(self, linears: list[Linear], seen: Hessian | None) -> None:
        """Compress one input group as a whole, as the sweep's bits depend on what is stacked; write what is new."""
        weights = [self.runner.weight(linear).float() for linear in linears]
        inputs = None if seen is None else seen.inputs
        results = self.method.compress([linear.name for linear in linears], weights, inputs)
        tokens = seen.tokens if seen is not None and linears[0].experts else None
        for linear, levels in zip(linears, results, strict=True):
            if linear.name not in self.manifest.units:
                self._write(linear, levels, tokens)

    def _write(self, linear: Linear, levels: Levels, tokens: int | None) -> None:
        unit = replace(write_unit(self.directory, linear, levels), tokens=tokens)
        self.manifest = self.manifest.with_unit(unit)
        write_manifest(self.directory, self.manifest)


def _kinds_of_experts(groups: Mapping[str, list[Linear]]) -> Iterator[list[str]]:
    """The groups of a layer's experts that read inputs of one kind, such as all `down_proj`."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for group, (first, *_) in groups.items():
        if first.experts:
            kinds.setdefault((first.experts, first.name.rpartition(".")[2]), []).append(group)
    yield from kinds.values()
