"""compressed-tensors, format `pack-quantized`: what transformers loads and vLLM serves.

Codes are packed densely into int32 by the library itself (since its version 0.17; earlier ones packed 3, 5, 6 and 7
bits differently). Scales have the model's dtype, which holds those of symmetric grids exactly. The configuration names
every layer, so that nothing depends on patterns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from evopress.core.profile import DENSE
from evopress.errors import MissingExtra, UnsupportedModel
from evopress.formats.about import TRANSFORMERS, VLLM, About
from evopress.formats.format import Content, Source
from evopress.formats.packed import PackedFormat, Read
from evopress.formats.shards import Entry
from evopress.formats.unpacked import unpacked, verify_unpacked
from evopress.formats.verification import Searched, Verification, verify_checkpoint
from evopress.levels.grid import Grid
from evopress.levels.quantized import Quantized
from evopress.search.presets import ApplicationName


class CompressedTensors(PackedFormat):
    """Implements `Format`."""

    name = "compressed-tensors"
    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",), ("bits", "depth"))
    widths = (2, 3, 4, 5, 6, 7, 8)
    experts = True

    def check(self, source: Source) -> None:
        """MissingExtra without the library; else as all packed formats."""
        if find_spec("compressed_tensors") is None:
            raise MissingExtra("compressed-tensors is not installed: pip install evopress[export]")
        if source.target == "transformers" and source.map.experts:
            raise UnsupportedModel(
                "transformers reads packed experts only if those of all layers have one level; use --target vllm, "
                "or the format hf without a target"
            )
        super().check(source)

    def weight(self, module: str, shape: tuple[int, int], grid: Grid, dtype: torch.dtype, read: Read) -> list[Entry]:
        """Packed codes, scales (rows, groups) and the shape."""
        rows, columns = shape
        words, groups = math.ceil(columns * grid.bits / 32), grid.groups(columns)
        return [
            Entry(f"{module}.weight_packed", torch.int32, (rows, words), lambda: _words(read())),
            Entry(f"{module}.weight_scale", dtype, (rows, groups), lambda: read().scale.to(dtype)),
            Entry(f"{module}.weight_shape", torch.int64, (2,), lambda: torch.tensor(shape)),
        ]

    def configuration(self, grids: Mapping[str, Grid | None]) -> dict[str, Any]:
        """One group for each grid, with its layers' full names."""
        from compressed_tensors.quantization import QuantizationConfig

        used = dict.fromkeys(grid for grid in grids.values() if grid is not None)
        groups = {
            f"group_{number}": _scheme(grid, [name for name, own in grids.items() if own == grid])
            for number, grid in enumerate(sorted(used, key=lambda grid: grid.bits))
        }
        config = QuantizationConfig(
            config_groups=groups,
            format="pack-quantized",
            quantization_status="compressed",
            ignore=[name for name, grid in grids.items() if grid is None],
        )
        answer: dict[str, Any] = config.model_dump(mode="json")
        return answer

    def about(self, source: Source, content: Content) -> About:
        """transformers loads all but experts of several levels; vLLM has kernels for some, those of its target."""
        if self._mixed(source, content):
            note = "transformers reads experts wrong where those of different layers have different levels, as here."
            return About("vllm", (VLLM,), (note,))
        serve = (VLLM, TRANSFORMERS) if source.target == "vllm" else (TRANSFORMERS,)
        return About("transformers", serve, ("transformers needs the package compressed-tensors.",))

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load it with transformers, or with what this cannot read unpacked by compressed-tensors."""
        if self._mixed(source, content):
            return verify_unpacked(source.loaded.model, out, searched, unpacked, self.name)
        return verify_checkpoint(source.loaded.model, out, searched)

    def _mixed(self, source: Source, content: Content) -> bool:
        """Whether experts have several levels, or one that is not packed."""
        levels = dict(content.profile.items())
        found = {levels[linear.name] for linear in source.map.linears if linear.experts}
        return len(found) > 1 or found == {DENSE}


def _words(level: Quantized) -> torch.Tensor:
    """The codes of a symmetric grid (rows, columns) as int32 words of a row."""
    from compressed_tensors.compressors import pack_to_int32

    signed = level.unpacked_codes().to(torch.int16) - 2 ** (level.grid.bits - 1)
    packed: torch.Tensor = pack_to_int32(signed.to(torch.int8), level.grid.bits)
    return packed


def _scheme(grid: Grid, modules: list[str]) -> dict[str, Any]:
    size = {"strategy": "channel"} if grid.group_size is None else {"strategy": "group", "group_size": grid.group_size}
    weights = {"num_bits": grid.bits, "type": "int", "symmetric": True, **size}
    return {"targets": modules, "weights": weights, "format": "pack-quantized"}
