"""What checkpoints with packed levels share: codes, scales and whatever a format wants stand in the place of a weight.

A format is a child of `PackedFormat`: it says which levels it can hold, which tensors a level becomes and how the
configuration announces them. Tensors of levels are read from the database one by one as they are written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evopress.core.costs import FileCosts
from evopress.core.profile import DENSE
from evopress.database.store import Database
from evopress.errors import ConfigError, UnsupportedModel
from evopress.formats.carried import carry
from evopress.formats.format import Content, Source
from evopress.formats.hf import save_rest, stored_tensors
from evopress.formats.shards import Entry, Progress, entry_bytes, frame_bytes, kept, predicted_bytes, write_shards
from evopress.formats.verification import Searched, Verification
from evopress.levels.grid import Grid, named_grids
from evopress.levels.quantized import Quantized
from evopress.models import Linear
from evopress.search.presets import ApplicationName
from evopress.settings.sections import QuantizeSection

Read = Callable[[], Quantized]
"""Reads a level from the database."""


class PackedFormat(ABC):
    """Implements `Format` but for what a level becomes."""

    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",),)

    @property
    @abstractmethod
    def name(self) -> str:
        """What `--format` calls it."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """The bit-widths that it can hold."""

    @abstractmethod
    def weight(self, module: str, shape: tuple[int, int], grid: Grid, dtype: torch.dtype, read: Read) -> list[Entry]:
        """What is stored for the weight (rows, columns) of `module` in a model of `dtype`."""

    @abstractmethod
    def configuration(self, grids: Mapping[str, Grid | None]) -> dict[str, Any]:
        """What config.json says under `quantization_config`; module -> its grid, None where it is left as it is."""

    @abstractmethod
    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load `out` as its consumer does."""

    def check(self, source: Source) -> None:
        """ConfigError for grids that it cannot hold, UnsupportedModel for layers that it cannot."""
        section = source.section
        assert isinstance(section, QuantizeSection)  # the only family it holds
        if not section.symmetric:
            raise ConfigError(f"format {self.name} holds symmetric grids only; make the run with --symmetric")
        if illegal := [name for name in section.widths if int(name) not in self.widths]:
            known = ", ".join([*map(str, self.widths), DENSE])
            raise ConfigError(f"format {self.name} does not hold level {illegal[0]}; its levels are {known}")
        if section.embeddings:
            raise ConfigError(f"format {self.name} holds embedding and head as they are; leave --embeddings off")
        if source.map.again:
            again = source.map.again[0]
            raise UnsupportedModel(
                f"format {self.name} holds a weight once, but {again.name} uses that of {again.view.parameter}; use hf"
            )
        for linear in source.map.linears:
            if linear.experts:
                raise UnsupportedModel(f"format {self.name} does not hold experts yet, such as {linear.name}; use hf")
            if linear.view.transposed or linear.view.index is not None:
                raise UnsupportedModel(f"format {self.name} holds plain linear layers only, {linear.name} is none")
            self.check_layer(linear, section.group_size)

    def check_layer(self, linear: Linear, group_size: int | None) -> None:
        """ConfigError when a layer's shape does not fit the format."""
        columns = linear.view.shape[1]
        if group_size is not None and columns % group_size:
            raise ConfigError(
                f"format {self.name} holds whole groups only; a group size of {group_size} does not divide the "
                f"{columns} inputs of {linear.name}"
            )

    def predicted_bytes(self, source: Source, content: Content) -> int:
        """From names, shapes and dtypes alone."""
        return predicted_bytes(self._entries(source, content))

    def costs(self, source: Source) -> FileCosts:
        """Each weight's tensors and their share of a header; constant is all that is no unit.

        All weights have a name as long as the longest, so that layers of equal shape cost the same.
        """
        model, units = source.loaded.model, {linear.view.parameter: linear for linear in source.map.linears}
        section = source.section
        assert isinstance(section, QuantizeSection)
        module = "x" * max(len(name.removesuffix(".weight")) for name in units)
        levels: dict[str, dict[str, int]] = {}
        others = [kept(name, tensor) for name, tensor in stored_tensors(model) if name not in units]
        constant = sum(map(entry_bytes, carry(others, source.loaded, source.map, own_names=True)))
        for name, tensor in stored_tensors(model):
            if name not in units:
                continue
            made = {
                level: self.weight(module, units[name].view.shape, grid, tensor.dtype, _unread)
                for level, grid in named_grids(section.widths, section.group_size, section.symmetric).items()
            } | {DENSE: [kept(f"{module}.weight", tensor)]}
            levels[units[name].name] = {level: sum(map(entry_bytes, own)) for level, own in made.items()}
        largest = constant + sum(max(own.values()) for own in levels.values())
        return FileCosts(constant + frame_bytes(largest), levels)

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """Configuration and tokenizer, then the weights."""
        announced = self.configuration(self._grids(source, content))
        save_rest(source.loaded, out, more={"quantization_config": announced})
        write_shards(out, self._entries(source, content), progress)

    def _grids(self, source: Source, content: Content) -> dict[str, Grid | None]:
        """Module -> grid, in the model's order, the head among those that are left as they are."""
        units, levels = content.levels.manifest.units, dict(content.profile.items())
        found = {
            linear.view.parameter.removesuffix(".weight"): None
            if levels[linear.name] == DENSE
            else units[linear.name].level(levels[linear.name]).grid
            for linear in source.map.linears
        }
        return found | dict.fromkeys(self._left(source)) | {source.map.head: None}

    def _left(self, source: Source) -> list[str]:
        """Linear layers that are no units: readers would take them for packed ones."""
        units = {linear.name for linear in source.map.linears}
        modules = source.loaded.model.named_modules()
        return [name for name, module in modules if isinstance(module, torch.nn.Linear) and name not in units]

    def _entries(self, source: Source, content: Content) -> list[Entry]:
        database, levels = content.levels, dict(content.profile.items())
        units = {linear.view.parameter: linear.name for linear in source.map.linears}
        entries = []
        for name, tensor in stored_tensors(source.loaded.model):
            level = levels.get(units.get(name, ""), DENSE)
            if level == DENSE:
                entries.append(kept(name, tensor))
                continue
            unit = database.manifest.units[units[name]]
            grid = unit.level(level).grid
            assert grid is not None  # `check` has looked
            read = partial(_read, database, unit.name, level)
            entries += self.weight(name.removesuffix(".weight"), unit.view.shape, grid, tensor.dtype, read)
        return carry(entries, source.loaded, source.map, own_names=True)


def _read(database: Database, unit: str, level: str) -> Quantized:
    packed = database.load(unit, level)
    assert isinstance(packed, Quantized)
    return packed


def _unread() -> Quantized:
    raise AssertionError("sizes are known without reading a level")
