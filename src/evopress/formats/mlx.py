"""MLX's affine levels, for Macs: what `mlx_lm.load` reads, a level of its own for every layer.

A weight becomes codes as one string of bits, the first code in the lowest ones, cut into uint32 words, and a scale and
a bias for each group: ``scale * code + bias``. The bias of a symmetric grid is its scale times a power of two, so it is
a number of the model's dtype, and the levels are those that were searched, bit for bit. That of an asymmetric one would
be rounded, so these are refused. Names are those of the model's own files: mlx_lm renames what its classes call
otherwise, and finds levels of such layers by their shapes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from evopress.errors import ConfigError
from evopress.formats.about import About
from evopress.formats.format import Content, Source
from evopress.formats.packed import PackedFormat, Read
from evopress.formats.shards import Entry, read_tensors
from evopress.formats.unpacked import load_unpacked, verify_unpacked
from evopress.formats.verification import Searched, Verification, compare, logits, no_room, probe
from evopress.levels.grid import Grid
from evopress.models import Linear

WORD = 32  # bits of what codes are packed into
WORD_MASK = 2**WORD - 1
GROUPS = (32, 64, 128)

MLX_TOLERANCE = 1e-4  # of the largest logit, between MLX and PyTorch in fp32


class Mlx(PackedFormat):
    """Implements `Format`."""

    name = "mlx"
    widths = (2, 3, 4, 5, 6, 8)
    announces = "quantization"

    def check_layer(self, linear: Linear, group_size: int | None) -> None:
        """Whole groups, of sizes that MLX has kernels for."""
        if group_size not in GROUPS:
            known = ", ".join(map(str, GROUPS))
            raise ConfigError(f"format mlx holds groups of {known}, not of {group_size or 'a whole row'}")
        super().check_layer(linear, group_size)

    def weight(self, module: str, shape: tuple[int, int], grid: Grid, dtype: torch.dtype, read: Read) -> list[Entry]:
        """Packed codes (rows, words), scales and biases (rows, groups)."""
        rows, columns = shape
        groups, zero = (rows, grid.groups(columns)), 2 ** (grid.bits - 1)
        return [
            Entry(f"{module}.weight", torch.uint32, (rows, columns * grid.bits // WORD),
                  lambda: to_words(read().unpacked_codes(), grid.bits)),
            Entry(f"{module}.scales", dtype, groups, lambda: read().scale.to(dtype)),
            Entry(f"{module}.biases", dtype, groups, lambda: read().scale.to(dtype) * -zero),
        ]  # fmt: skip

    def configuration(self, grids: Mapping[str, Grid | None]) -> dict[str, Any]:
        """The most frequent level, then every layer's own; false for those that are left as they are."""
        used = Counter(grid for grid in grids.values() if grid is not None)
        most = used.most_common(1)[0][0] if used else Grid(4, 64, symmetric=True)
        return _level(most) | {name: False if grid is None else _level(grid) for name, grid in grids.items()}

    def about(self, source: Source, content: Content) -> About:
        """mlx-lm runs it on Macs, and on the CPUs of others."""
        command = "mlx_lm.generate --model DIRECTORY --prompt 'Once upon a time'"
        return About("mlx", (("With MLX", command),), ("It needs the package mlx-lm.",), ("mlx",))

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Unpack it for the model's class, and run it with mlx_lm, too, where that is installed."""
        formula = verify_unpacked(source.loaded.model, out, searched, unpacked, "MLX's own formula")
        if formula.failed or find_spec("mlx_lm") is None:
            return formula
        return verify_with_mlx(source.loaded.model, out, searched)


def to_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (rows, columns) of `bits` bits -> uint32 (rows, columns * bits / 32); 32 divides the columns.

    >>> hex(to_words(torch.arange(32)[None] % 16, 4)[0, 0].item())
    '0x76543210'
    """
    rows, columns = codes.shape
    lanes = codes.to(torch.int64).view(rows, -1, WORD)
    words = lanes.new_zeros(rows, columns // WORD, bits)
    for lane in range(WORD):  # 32 codes fill whole words
        word, shift = divmod(lane * bits, WORD)
        words[..., word] |= (lanes[..., lane] << shift) & WORD_MASK
        if shift + bits > WORD:
            words[..., word + 1] |= lanes[..., lane] >> (WORD - shift)
    return words.view(rows, -1).to(torch.uint32)


def from_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `to_words`: codes (rows, columns)."""
    packed = words.to(torch.int64).view(len(words), -1, bits)
    lanes = []
    for lane in range(WORD):
        word, shift = divmod(lane * bits, WORD)
        value = packed[..., word] >> shift
        if shift + bits > WORD:
            value |= packed[..., word + 1] << (WORD - shift)
        lanes.append(value & (2**bits - 1))
    return torch.stack(lanes, -1).view(len(words), -1)


def unpacked(directory: Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The dense tensors of a checkpoint by name, each weight by the level that config.json names for it.

    Weights that had levels are rounded to `dtype`, by default that of their scales.
    """
    levels = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization"]
    tensors = read_tensors(directory)
    for module in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
        scales, biases = tensors.pop(f"{module}.scales"), tensors.pop(f"{module}.biases")
        own = levels[module]
        codes = from_words(tensors[f"{module}.weight"], own["bits"]).view(len(scales), -1, own["group_size"]).float()
        values = scales.float().unsqueeze(-1) * codes + biases.float().unsqueeze(-1)
        tensors[f"{module}.weight"] = values.flatten(1).to(dtype or scales.dtype)
    return tensors


def verify_with_mlx(model: Any, out: Path, searched: Searched) -> Verification:
    """What mlx_lm makes of the checkpoint in `out`, beside the class of the `model` with the same weights.

    Both in fp32, weights too, so that nothing but the order of additions differs: in half precision MLX does not round
    weights before it multiplies with them, and sums poorly on CPUs.
    """
    import mlx.core as mx
    from mlx_lm.utils import load_model

    ids = probe(model.get_input_embeddings().weight.shape[0])
    if reason := no_room(model, searched.free // 4):  # two models of fp32
        return Verification("mlx_lm", None, MLX_TOLERANCE, reason)
    try:
        found, _ = load_model(out)
        found.set_dtype(mx.float32)  # scales and biases of a half precision are numbers of it
        answers = torch.tensor(found(mx.array(ids.tolist())).astype(mx.float32).tolist())
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        return Verification("mlx_lm", float("nan"), MLX_TOLERANCE, str(error))
    whole = load_unpacked(model, out, partial(unpacked, dtype=torch.float32), torch.float32)
    return compare("mlx_lm", logits(whole, ids), answers, MLX_TOLERANCE)


def _level(grid: Grid) -> dict[str, Any]:
    return {"group_size": grid.group_size, "bits": grid.bits, "mode": "affine"}
