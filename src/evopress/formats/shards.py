"""The weights of a checkpoint as safetensors files, whose sizes are known before a byte is written.

First entries, which know names, dtypes and shapes; then one pass that makes and writes them shard by shard, so memory
holds one shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evopress.core.files import PARTIAL

SHARD_BYTES = 2_000_000_000
METADATA = {"format": "pt"}
INDEX = "model.safetensors.index.json"
# What safetensors calls dtypes, in the order in which it stores tensors (its own, by alignment).
_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint; `make` makes it, of this dtype and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes without the file's header."""
        return math.prod(self.shape) * self.dtype.itemsize


def kept(name: str, tensor: torch.Tensor) -> Entry:
    """A tensor that is stored as it is."""
    return Entry(name, tensor.dtype, tuple(tensor.shape), tensor.detach)


def predicted_bytes(entries: Sequence[Entry]) -> int:
    """The exact size of all files with weights that `write_shards` writes."""
    return sum(_file_bytes(shard) for shard in _plan(entries))


def entry_bytes(entry: Entry) -> int:
    """The most bytes that an entry takes in a file, its share of the header included.

    The header gives where a tensor begins and ends in decimal, so its size depends on what else is in the file; this
    counts offsets of the largest file there can be.
    """
    digits = len(str(max(SHARD_BYTES, entry.nbytes)))
    return entry.nbytes + len(_header_item(entry, 10 ** (digits - 1), 10 ** (digits - 1))) + 1


def frame_bytes(total: int) -> int:
    """The most bytes that the headers of files with `total` bytes of tensors take beside those of their entries."""
    files = 1 + total // (SHARD_BYTES // 2)
    return files * (8 + len(json.dumps({"__metadata__": METADATA}, separators=(",", ":"))) + 7)


def write_shards(directory: Path, entries: Sequence[Entry], progress: Progress) -> None:
    """The weights' files and, if they are several, their index."""
    shards = _plan(entries)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save({entry.name: entry.make().cpu().contiguous() for entry in shard}, directory / file)
        index.update((entry.name, file) for entry in shard)
        progress(number, len(shards))
    if len(shards) > 1:
        total = sum(entry.nbytes for entry in entries)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (directory / INDEX).write_text(text + "\n", encoding="utf-8")


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
    return tensors


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write a file that is as readable as any other: safetensors makes it readable for its owner alone."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, METADATA)
    file.chmod(mode)


def weight_bytes(directory: Path) -> int:
    """The size of all files in a directory that hold weights, whatever the format, those that are hidden too."""
    names = {file: file.name.removesuffix(PARTIAL) for file in directory.iterdir()}
    return sum(file.stat().st_size for file, name in names.items() if name.endswith((".safetensors", ".gguf")))


def _plan(entries: Iterable[Entry]) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry.nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.nbytes
    return shards


def _file_bytes(shard: Sequence[Entry]) -> int:
    """Length, header padded to 8 bytes, tensors without gaps."""
    items, offset = [json.dumps("__metadata__") + ":" + _compact(METADATA)], 0
    for entry in sorted(shard, key=lambda entry: (_ORDER[entry.dtype], entry.name)):
        items.append(_header_item(entry, offset, offset + entry.nbytes))
        offset += entry.nbytes
    header = len(("{" + ",".join(items) + "}").encode())
    return 8 + -(-header // 8) * 8 + offset


def _header_item(entry: Entry, start: int, end: int) -> str:
    about = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [start, end]}
    return json.dumps(entry.name, ensure_ascii=False) + ":" + _compact(about)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
