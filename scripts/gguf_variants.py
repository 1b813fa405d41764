"""Files made of a GGUF file for check_llama_cpp_run.py: with the weights unpacked to fp32, or damaged.

A damage is what an error in an exporter would do to a Llama: small (one block of the model), in a file that every
loader takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Damage = Callable[[Any], None]
"""Changes a `gguf.GGUFReader` that was opened for writing."""


def unpack(source: Path, out: Path) -> None:
    """Write the file `source` with each tensor as the fp32 numbers that the gguf package reads in it."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            item = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.float32(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def damages(config: Any, damaged: Sequence[int]) -> dict[str, Damage]:
    """Name -> damage, for some blocks of a Llama of this transformers configuration."""
    blocks, found = config.num_hidden_layers, dict[str, Damage]()
    for block in damaged:
        found[f"rows of q and k not reordered, block {block}"] = lambda file, block=block: _unordered(
            file, block, config
        )
        found[f"a matrix of another block, block {block}"] = lambda file, block=block: _swapped(file, block, blocks)
        found[f"attention norm plus one, block {block}"] = lambda file, block=block: _raised(file, block)
    return found


def _unordered(file: Any, block: int, config: Any) -> None:
    """Rows in transformers' order: a head's halves one after the other, not neighbours."""
    for kind, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
        rows = _tensor(file, f"blk.{block}.{kind}.weight").data
        pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
        rows[:] = pairs.swapaxes(1, 2).reshape(rows.shape).copy()


def _swapped(file: Any, block: int, blocks: int) -> None:
    """A matrix gets the bytes of the nearest other block's that has the same type; the first of an MLP that can."""
    near = sorted(set(range(blocks)) - {block}, key=lambda number: abs(number - block))
    for kind in ("ffn_down", "ffn_up", "ffn_gate"):
        own = _tensor(file, f"blk.{block}.{kind}.weight")
        for other in (_tensor(file, f"blk.{number}.{kind}.weight") for number in near):
            if other.tensor_type == own.tensor_type:
                own.data[:] = other.data
                return
    raise SystemExit(f"no other block stores a matrix of its MLP as block {block} does")


def _raised(file: Any, block: int) -> None:
    """Gemma's convention, where a norm is stored less one, taken for a model that has it not."""
    weights = _tensor(file, f"blk.{block}.attn_norm.weight").data
    weights += np.float32(1)


def _tensor(file: Any, name: str) -> Any:
    return next(tensor for tensor in file.tensors if tensor.name == name)
