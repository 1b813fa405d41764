"""What checkpoints with packed levels share: codes, scales and whatever a format wants stand in the place of a weight.

A format is a child of `PackedFormat`: it says which levels it can hold, which tensors a level becomes and how the
configuration announces them. Tensors of levels are read from the database one by one as they are written.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evopress.core.costs import FileCosts
from evopress.core.profile import DENSE, DROP
from evopress.database.store import Database
from evopress.errors import ConfigError, UnsupportedModel
from evopress.formats.carried import carry
from evopress.formats.experts import names_in_files, split_rows
from evopress.formats.format import Content, Source
from evopress.formats.hf import part_bytes, save_rest, stored_tensors, without_parts
from evopress.formats.shards import Entry, Progress, entry_bytes, frame_bytes, kept, predicted_bytes, write_shards
from evopress.formats.verification import Searched, Verification
from evopress.levels.grid import Grid, named_grids
from evopress.levels.quantized import Quantized
from evopress.models import Linear
from evopress.models.shorten import cut_along, new_names, shortened_config
from evopress.search.presets import ApplicationName
from evopress.settings.sections import QuantizeSection
from evopress.settings.targets import find_target, tied_experts

Read = Callable[[], Quantized]
"""Reads a level from the database."""

ReadRows = Callable[[int, int], Read]
"""What reads the rows of a level from that one on, so many of them."""


class PackedFormat(ABC):
    """Implements `Format` but for what a level becomes."""

    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",),)
    announces = "quantization_config"  # where config.json has the levels
    experts = False  # whether it holds those of a mixture, all of a layer in one level

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
        """What config.json `announces`; module -> its grid, None where it is left as it is."""

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
        self._check_experts(source, section)
        for linear in source.map.linears:
            if linear.view.transposed or linear.view.index is not None:
                raise UnsupportedModel(f"format {self.name} holds plain linear layers only, {linear.name} is none")
            self.check_layer(linear, section.group_size)

    def _check_experts(self, source: Source, section: QuantizeSection) -> None:
        """Errors for experts that it cannot hold."""
        if source.map.experts and len(source.sections) > 1:
            raise UnsupportedModel(f"format {self.name} holds no mixtures without some of their blocks; use hf")
        names = names_in_files(source.loaded)
        for linear in source.map.linears:
            if not linear.experts:
                continue
            if not self.experts:
                raise UnsupportedModel(f"format {self.name} does not hold experts, such as {linear.name}; use hf")
            if tied_experts(section, find_target(source.target)) != "layer":
                raise ConfigError(
                    f"format {self.name} holds one level for all experts of a layer; make the run with --experts layer"
                )
            if linear.view.parameter not in names:
                raise UnsupportedModel(
                    f"format {self.name} holds experts by their names in the model's files, which have "
                    f"{linear.experts} in stacks; use hf"
                )

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
        names = _names(source)
        longest = max(len(own) for unit in units for own in names.get(unit, (unit,)))
        levels: dict[str, dict[str, int]] = {}
        others = [kept(name, tensor) for name, tensor in stored_tensors(model) if name not in units]
        sizes = [(entry.name, entry_bytes(entry)) for entry in _carried(others, source)]
        left_out, constant = part_bytes(source, sizes), sum(size for _, size in sizes)
        for name, tensor in stored_tensors(model):
            if name not in units:
                continue
            parts = ["x" * (longest - len(".weight")) + ".weight"] * len(names.get(name, (name,)))
            made = {
                level: self._level(parts, units[name].view.shape, grid, tensor.dtype, lambda first, count: _unread)
                for level, grid in named_grids(section.widths, section.group_size, section.symmetric).items()
            } | {DENSE: list(split_rows(kept(name, tensor), parts))}
            levels[units[name].name] = {level: sum(map(entry_bytes, own)) for level, own in made.items()}
        largest = constant + sum(max(own.values()) for own in levels.values())
        return FileCosts(constant + frame_bytes(largest) - sum(left_out.values()), levels, left_out)

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """Configuration and tokenizer, then the weights."""
        announced, config = self.configuration(self._grids(source, content)), source.loaded.model.config
        if content.left_out:
            config = shortened_config(config, source.map, content.left_out)
        save_rest(source.loaded, out, config, more={self.announces: announced})
        write_shards(out, self._entries(source, content), progress)

    def _level(
        self, parts: Sequence[str], shape: tuple[int, int], grid: Grid, dtype: torch.dtype, read: ReadRows
    ) -> list[Entry]:
        """What is stored for a weight whose rows are in equal `parts` in files."""
        count = shape[0] // len(parts)
        return [
            entry
            for number, part in enumerate(parts)
            for entry in self.weight(
                part.removesuffix(".weight"), (count, shape[1]), grid, dtype, read(number * count, count)
            )
        ]

    def _grids(self, source: Source, content: Content) -> dict[str, Grid | None]:
        """Module -> grid, in the model's order, the head among those that are left as they are.

        Modules that files call otherwise have both names; all experts of a layer are one pattern, which begins with
        `re:`.
        """
        units, levels = content.levels.manifest.units, dict(content.profile.items())
        names, found = _names(source), dict[str, Grid | None]()
        for linear in source.map.linears:
            level, weight = levels[linear.name], linear.view.parameter
            if level == DROP:
                continue
            own = [weight, names.get(weight, (weight,))[0]]
            if linear.experts:
                number = linear.name.removeprefix(f"{linear.experts}.").partition(".")[0]
                own = [f"re:^{re.escape(name.rpartition(f'.{number}.')[0])}\\.\\d+\\." for name in own]
            grid = None if level == DENSE else units[linear.name].level(level).grid
            found |= dict.fromkeys((name.removesuffix(".weight") for name in own), grid)
        left = [name for module in self._left(source) for name in (module, *_announced(module, names))]
        modules = found | dict.fromkeys(left)
        moved = new_names(modules, source.map, content.left_out)
        return {moved[module]: grid for module, grid in modules.items() if module in moved}

    def _left(self, source: Source) -> list[str]:
        """Linear layers that are no units, routers and the head: readers would take them for packed ones."""
        units = {linear.name for linear in source.map.linears}
        modules = source.loaded.model.named_modules()
        linears = [name for name, module in modules if isinstance(module, torch.nn.Linear) and name not in units]
        routers = [left.parameter.removesuffix(".weight") for left in source.map.left] if source.map.experts else []
        return list(dict.fromkeys([*linears, *routers, source.map.head]))

    def _entries(self, source: Source, content: Content) -> list[Entry]:
        database, levels = content.levels, dict(content.profile.items())
        units = {linear.view.parameter: linear for linear in source.map.linears}
        names, entries = _names(source), list[Entry]()
        for name, tensor in stored_tensors(source.loaded.model):
            level = DENSE if name not in units else levels[units[name].name]
            if level == DROP:
                continue
            if level != DENSE:
                unit = database.manifest.units[units[name].name]
                grid = unit.level(level).grid
                assert grid is not None  # `check` has looked
                read = partial(_rows, database, unit.name, level)
                entries += self._level(names.get(name, (name,)), unit.view.shape, grid, tensor.dtype, read)
            elif name in units and units[name].experts:
                entries += split_rows(kept(name, tensor), names[name])
            else:
                entries.append(kept(name, tensor))
        return _carried(_moved(entries, source, content.left_out), source, content.left_out)


def _names(source: Source) -> dict[str, tuple[str, ...]]:
    """Name in the state -> names in the files of parts of its rows, for mixtures, whose files no class reads as it is.

    Others have the names of the state: that is how their classes know modules.
    """
    return names_in_files(source.loaded) if source.map.experts else {}


def _announced(module: str, names: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [name.removesuffix(".weight") for name in names.get(f"{module}.weight", ())]


def _carried(entries: Sequence[Entry], source: Source, gone: Collection[int] = ()) -> list[Entry]:
    return carry(entries, source.loaded, source.map, gone, own_names=not source.map.experts)


def _moved(entries: Sequence[Entry], source: Source, gone: Collection[int]) -> list[Entry]:
    """The entries that files have without some blocks, under the names that those behind them then have."""
    if not gone:
        return list(entries)
    names = new_names([entry.name for entry in entries], source.map, gone)
    cut, count = cut_along(source.loaded.model, source.map), source.map.n_blocks
    left = [without_parts(entry, cut, count, gone) for entry in entries if entry.name in names]
    return [replace(entry, name=names[entry.name]) for entry in left]


def _rows(database: Database, unit: str, level: str, first: int, count: int) -> Read:
    """What reads some rows of a level."""

    def read() -> Quantized:
        packed = database.load(unit, level)
        assert isinstance(packed, Quantized)
        return packed if count == packed.shape[0] else packed.rows(first, count)

    return read


def _unread() -> Quantized:
    raise AssertionError("sizes are known without reading a level")
