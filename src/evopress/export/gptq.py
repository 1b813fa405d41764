"""The format of GPTQ checkpoints, for runtimes that read nothing newer: 4 and 8 bits, symmetric.

Codes are packed into int32 along the inputs, zeros along the outputs and less one, as the original implementation did.
One width is the checkpoint's; layers of other widths and those left as they are have rules under `dynamic`, which
GPTQModel and vLLM match in order. Where layers that vLLM fuses share a level, their rule matches the fused name too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from evopress.compress.grid import Grid
from evopress.errors import ConfigError
from evopress.export.about import TRANSFORMERS, VLLM, About
from evopress.export.format import Content, Source
from evopress.export.packed import PackedFormat, Read
from evopress.export.shards import Entry
from evopress.export.verification import Searched, Verification, verify_checkpoint
from evopress.models import Linear

WORD = 32  # bits of what codes are packed into

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""What vLLM calls a fused layer -> the layers of one module that are in it."""


class Gptq(PackedFormat):
    """Implements `Format`."""

    name = "gptq"
    widths = (4, 8)

    def check_layer(self, linear: Linear, group_size: int | None) -> None:
        """Whole groups, and whole words at 4 bits both ways."""
        super().check_layer(linear, group_size)
        each, shape = WORD // min(self.widths), linear.view.shape
        if any(size % each for size in shape):
            raise ConfigError(f"format gptq needs shapes that {each} divides; {linear.name} is {shape}")

    def weight(self, module: str, shape: tuple[int, int], grid: Grid, dtype: torch.dtype, read: Read) -> list[Entry]:
        """Codes (words of inputs, outputs), zeros (groups, words of outputs), scales (groups, outputs), groups."""
        rows, columns = shape
        groups, width, each = grid.groups(columns), grid.width(columns), WORD // grid.bits
        zero = torch.full((rows, groups), 2 ** (grid.bits - 1) - 1)
        made = {
            "qweight": ((columns // each, rows), lambda: pack_words(read().unpacked_codes().T, grid.bits)),
            "qzeros": ((groups, rows // each), lambda: pack_words(zero, grid.bits).T),
            "g_idx": ((columns,), lambda: torch.arange(columns, dtype=torch.int32) // width),
        }
        scales = Entry(f"{module}.scales", torch.float16, (groups, rows), lambda: read().scale.T)
        return [scales, *(Entry(f"{module}.{name}", torch.int32, *own) for name, own in made.items())]

    def configuration(self, grids: Mapping[str, Grid | None]) -> dict[str, Any]:
        """The most frequent width, and rules for all other layers."""
        used = [grid for grid in grids.values() if grid is not None]
        bits = Counter(grid.bits for grid in used).most_common(1)[0][0] if used else self.widths[0]
        size = used[0].group_size if used else None
        return {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": -1 if size is None else size,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
            "dynamic": _rules(grids, bits),
        }

    def about(self, source: Source, content: Content) -> About:
        """vLLM has kernels for it, transformers needs another package."""
        return About("transformers", (VLLM, TRANSFORMERS), ("transformers needs the package gptqmodel.",))

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load it with transformers, which needs GPTQModel for that."""
        if find_spec("gptqmodel") is None:
            return Verification("transformers", None, 0.0, "transformers loads GPTQ with the package gptqmodel only")
        return verify_checkpoint(source.loaded.model, out, searched)


def pack_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (n, m) of `bits` bits -> int32 (n * bits / 32, m), the first code of a word in its lowest bits.

    >>> pack_words(torch.arange(8).view(8, 1), 4).tolist() == [[0x76543210]]
    True
    """
    each = WORD // bits
    lanes = codes.to(torch.int64).reshape(len(codes) // each, each, -1)
    words = (lanes << (bits * torch.arange(each)).view(1, -1, 1)).sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _rules(grids: Mapping[str, Grid | None], bits: int) -> dict[str, dict[str, int]]:
    """Pattern -> what is different; `-:` leaves a layer as it is."""
    rules: dict[str, dict[str, int]] = {}
    for name, grid in grids.items():
        if grid is None:
            rules[f"-:{_pattern(name, grids)}"] = {}
        elif grid.bits != bits:
            rules[f"+:{_pattern(name, grids)}"] = {"bits": grid.bits}
    return rules


def _pattern(name: str, grids: Mapping[str, Grid | None]) -> str:
    """Matches a layer, and with it those that vLLM fuses it with and the fused one, if all have the same grid."""
    module, _, last = name.rpartition(".")
    for fused, parts in FUSED.items():
        names = [f"{module}.{part}" for part in parts]
        if last in parts and all(other in grids and grids[other] == grids[name] for other in names):
            return f"^{re.escape(module)}\\.(?:{'|'.join((*parts, fused))})$"
    return f"^{re.escape(name)}$"
