"""How much memory and disk a run will need, from shapes alone, so that it can refuse before it starts.

The same formulas make the table for models of 8B and 70B and one of 128 experts in `benchmarks/results/memory.md`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evopress.core.files import size
from evopress.errors import ResourceError
from evopress.models.describe import ModelMap


@dataclass(frozen=True)
class Shapes:
    """What the formulas need of a model. `groups` are the input groups of the block with most weights, whatever the
    others are: (columns, rows of its linears).

    `reach` is the share of all tokens that each group sees, where that is not all: a router sends an expert some.
    `ends` are the weights of embedding and head, where they are compressed.
    """

    parameters: int
    bytes_per_weight: int
    blocks: int
    width: int
    vocabulary: int
    groups: tuple[tuple[int, int], ...]
    ends: int = 0
    reach: tuple[float, ...] = ()

    def seen(self, count: Callable[[int, int], int]) -> int:
        """The sum of `count(columns, rows)` over all groups, each as often as a token reaches it."""
        reach = self.reach or (1.0,) * len(self.groups)
        return round(sum(share * count(*group) for share, group in zip(reach, self.groups, strict=True)))

    @property
    def compressed(self) -> int:
        """Weights in the compressed layers of all blocks."""
        return self.blocks * sum(columns * rows for columns, rows in self.groups)


def measure_shapes(model: Any, map: ModelMap) -> Shapes:
    """The shapes of a loaded model."""
    ends = [linear for linear in map.linears if not 0 <= linear.block < map.n_blocks]
    groups: dict[str, tuple[int, int]] = {}
    reach: dict[str, float] = {}
    sizes: Counter[int] = Counter()
    for linear in map.linears:
        sizes[linear.block] += linear.view.shape[0] * linear.view.shape[1] if linear not in ends else 0
    for linear in map.of_block(sizes.most_common(1)[0][0]):
        rows, columns = linear.view.shape
        groups[linear.input_group] = (columns, groups.get(linear.input_group, (0, 0))[1] + rows)
        reach[linear.input_group] = model.get_submodule(linear.experts).share if linear.experts else 1.0
    return Shapes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes_per_weight=model.dtype.itemsize,
        blocks=map.n_blocks,
        width=model.get_input_embeddings().weight.shape[1],
        vocabulary=model.get_output_embeddings().weight.shape[0],
        groups=tuple(groups.values()),
        ends=sum(linear.view.size for linear in ends),
        reach=tuple(reach.values()),
    )


def build_memory(
    shapes: Shapes, tokens: int, batch_tokens: int, level_bits: Sequence[float], *, corrects: bool = False
) -> dict[str, int]:
    """Bytes that a build holds at its peak, by what they hold; `level_bits` are stored bits a weight, one a level.

    One that `corrects` for compressed inputs holds the activations of the uncompressed model too, and what both have in
    common beside each Hessian; but not beside that of an expert, which other tokens reach there.
    """
    streams = 1 + corrects
    reach = shapes.reach or (1.0,) * len(shapes.groups)
    columns = [
        (columns, streams if share == 1 else 1) for share, (columns, _) in zip(reach, shapes.groups, strict=True)
    ]
    widest = max(shapes.groups, key=lambda group: group[0] * (group[0] + group[1] * len(level_bits)))
    ends = int(shapes.ends * (4 + 4 + len(level_bits) + sum(level_bits) / 8))
    seen = shapes.seen(lambda columns, rows: columns) * min(tokens, batch_tokens)
    return {
        "model": shapes.parameters * shapes.bytes_per_weight,
        "calibration activations": 2 * streams * tokens * shapes.width * shapes.bytes_per_weight,
        "inputs of one block": streams * seen * shapes.bytes_per_weight,
        "Hessians of one block": sum(4 * held * own**2 for own, held in columns),
        "sweep of one input group": 4 * (6 * widest[0] ** 2 + 4 * widest[0] * widest[1] * len(level_bits)),
        "levels of one block": int(sum(level_bits) * shapes.compressed / shapes.blocks / 8),
    } | ({"embedding and head": ends} if ends else {})


def search_memory(shapes: Shapes, tokens: int, candidates: int, batch_tokens: int, head_bytes: int) -> dict[str, int]:
    """Bytes that a search holds beside the bank, by what they hold."""
    state = shapes.width * shapes.bytes_per_weight
    return {
        "model": shapes.parameters * shapes.bytes_per_weight,
        "teacher": tokens * state,
        "candidates' hidden states": 2 * candidates * batch_tokens * state,
        "logits": 4 * max(head_bytes, 16 * 4 * shapes.vocabulary),
    }


def sensitivity_memory(shapes: Shapes, tokens: int) -> dict[str, int]:
    """Bytes that measuring sensitivities on `tokens` tokens holds beside what a search holds, by what they hold."""
    seen = shapes.seen(lambda columns, rows: columns * shapes.bytes_per_weight + 2 * 4 * rows)
    return {
        "inputs of all blocks": tokens * shapes.blocks * shapes.width * shapes.bytes_per_weight,
        "gradients of one block": tokens * seen,
    }


def polish_memory(shapes: Shapes, tokens: int, batch_tokens: int) -> dict[str, int]:
    """Bytes that learning levels from `tokens` tokens holds beside what is loaded, by what they hold.

    A number that is learned has 4 bytes for itself, its best value, its gradient and two moments, and two more while it
    becomes a weight.
    """
    state = shapes.width * shapes.bytes_per_weight
    passed = shapes.seen(lambda columns, rows: columns + rows)
    return {
        "hidden states": 4 * tokens * state,
        "numbers of one block": 28 * shapes.compressed // shapes.blocks,
        "gradients of a batch": 4 * batch_tokens * passed * shapes.bytes_per_weight,
        "packed levels": shapes.compressed * shapes.bytes_per_weight,
    } | ({"embedding and head": 28 * shapes.ends} if shapes.ends else {})


def available_memory(device: str) -> int:
    """Bytes that a new allocation can have: of main memory without swapping, or of a CUDA device's own memory.

    What PyTorch holds of a device's memory without using it counts as available.
    """
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(needs: dict[str, int], available: int, phase: str) -> None:
    """ResourceError, with the largest part named, when the parts of `needs` do not fit into `available` bytes."""
    total = sum(needs.values())
    if total > available:
        largest = max(needs, key=lambda part: needs[part])
        raise ResourceError(
            f"{phase} needs {size(total)} of memory and {size(available)} are available; "
            f"most of it is {largest} ({size(needs[largest])})"
        )
