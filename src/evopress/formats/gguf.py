"""A GGUF file for llama.cpp: each weight as the bytes of its level, so the runtime computes with what was searched.

First a plan, which knows every byte of the file from names, shapes and types alone; then one pass that writes it
tensor by tensor, so memory holds one of them. The file appears under its name only when it is whole. A model that came
from a GGUF file keeps that file's metadata, tokenizer and all tensors that are not replaced, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evopress.core.files import replacing, require_disk
from evopress.core.ggml_types import padded, row_bytes
from evopress.errors import DatabaseError, MissingExtra, ProfileError, UnsupportedModel
from evopress.formats.gguf_metadata import (
    Architecture,
    KeyValue,
    architecture,
    head_width,
    model_metadata,
    rope_factors,
)
from evopress.formats.gguf_tokenizer import tokenizer_metadata
from evopress.formats.hf import stored_tensors
from evopress.levels.ggml import Ggml, pack_ggml
from evopress.models import LoadedModel
from evopress.models.gguf_parts import open_gguf
from evopress.models.load import gguf_file

QUANTIZATION = 2  # the version of ggml's formats that all its files have
DENSE_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_SCALARS = {"UINT8": 1, "INT8": 1, "BOOL": 1, "UINT16": 2, "INT16": 2, "UINT32": 4, "INT32": 4, "FLOAT32": 4}

Packs = Mapping[str, Callable[[], Ggml]]
"""Parameter name -> what reads its packed matrix, rows in the model's own order."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file: its GGUF `name`, ggml `type` and `shape`, the last number being a row's.

    `parameter` is the model's name. `order` says which row comes where (None: as they are). `make` makes the bytes,
    uint8 (rows, bytes of a row), of tensors that are no level.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    parameter: str
    order: torch.Tensor | None = None
    make: Callable[[], torch.Tensor] | None = None

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return math.prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


@dataclass(frozen=True)
class GgufPlan:
    """All that a file will hold, without the weights: its header's entries and its tensors in order."""

    architecture: str
    metadata: tuple[KeyValue, ...]
    tensors: tuple[StoredTensor, ...]


def plan_gguf(loaded: LoadedModel, types: Mapping[str, str]) -> GgufPlan:
    """Plan the file of a model whose parameters in `types` are stored as those ggml types.

    Parameters that are not named keep their numbers: those of the source file if that is GGUF, else in the model's own
    dtype, norms and biases in fp32. A head tied to the embeddings is left out. ProfileError for names that are
    no stored parameter; UnsupportedModel for what cannot be written; MissingExtra without the gguf package.
    """
    config = loaded.model.config
    found = architecture(config)
    source = gguf_file(loaded)
    reader = None if source is None else open_gguf(source)
    parameters = dict(stored_tensors(loaded.model))
    unknown = sorted(set(types) - {name for name, tensor in parameters.items() if tensor.ndim == 2})
    if unknown:
        raise ProfileError(f"{unknown[0]} is no stored weight matrix of the model; a tied head goes by its embeddings")
    names = _names(found, config.num_hidden_layers, parameters)
    kept = {} if reader is None else {tensor.name: tensor for tensor in reader.tensors}
    tensors = [
        _from_file(kept[gguf_name], name)
        if gguf_name in kept and name not in types
        else _from_model(gguf_name, name, parameters[name], types.get(name), found, config)
        for name, gguf_name in names.items()
    ]
    written = {tensor.name for tensor in tensors}
    tensors += [_from_file(tensor, name) for name, tensor in kept.items() if name not in written]
    factors = rope_factors(config)
    if factors is not None and "rope_freqs.weight" not in kept:
        tensors.append(_dense_tensor("rope_freqs.weight", "", factors))
    metadata = _source_metadata(reader) if reader is not None else _new_metadata(loaded, found)
    return GgufPlan(found.name, tuple(metadata), tuple(tensors))


def predicted_bytes(plan: GgufPlan) -> int:
    """The exact size of the file that `export_gguf` writes."""
    header = header_bytes(plan.metadata) + sum(map(announcement_bytes, plan.tensors))
    return padded(header) + sum(padded(tensor.bytes) for tensor in plan.tensors)


def header_bytes(metadata: Iterable[KeyValue]) -> int:
    """What a file begins with, but for the announcements of its tensors and without padding."""
    return 4 + 4 + 8 + 8 + sum(map(_entry_bytes, metadata))


def announcement_bytes(tensor: StoredTensor) -> int:
    """What the header says of a tensor."""
    return 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8


def export_gguf(
    file: Path, plan: GgufPlan, packs: Packs, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write `file` as planned, replacing what was there; `packs` makes the matrices whose types the plan was given.

    DatabaseError when a matrix is missing or not of the planned type and shape, ResourceError when the disk is too
    small.
    """
    gguf = _gguf()
    file.parent.mkdir(parents=True, exist_ok=True)
    require_disk(file.parent, predicted_bytes(plan), "the export")
    with replacing(file) as partial:
        writer = gguf.GGUFWriter(partial, plan.architecture)
        try:
            _write_header(writer, plan)
            for done, tensor in enumerate(plan.tensors, start=1):
                writer.write_tensor_data(_content(tensor, packs).numpy())
                progress(done, len(plan.tensors))
        finally:
            writer.close()


def gguf_names(loaded: LoadedModel) -> dict[str, str]:
    """The model's parameter names -> the names of their tensors in GGUF; UnsupportedModel for one that has none."""
    config = loaded.model.config
    return _names(architecture(config), config.num_hidden_layers, dict(stored_tensors(loaded.model)))


def _names(found: Architecture, blocks: int, parameters: Mapping[str, torch.Tensor]) -> dict[str, str]:
    gguf = _gguf()
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == found.name)
    table = gguf.get_tensor_name_map(kind, blocks)
    names = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in parameters}
    missing = [name for name, known in names.items() if known is None]
    if missing:
        raise UnsupportedModel(f"{missing[0]} has no place in a GGUF file of the architecture {found.name}")
    return names


def _from_file(tensor: Any, parameter: str) -> StoredTensor:
    """A tensor of the source file, as it lies there."""
    shape = tuple(int(size) for size in reversed(tensor.shape))
    return StoredTensor(
        tensor.name, tensor.tensor_type.name, shape, parameter, make=lambda: _raw(tensor.data).view(shape[0], -1)
    )


def _raw(data: Any) -> torch.Tensor:
    return torch.from_numpy(data.copy()).contiguous().view(torch.uint8)


def _from_model(
    name: str, parameter: str, tensor: torch.Tensor, kind: str | None, found: Architecture, config: Any
) -> StoredTensor:
    order = _interleaved(name, tensor, config) if found.interleaved else None
    if kind is not None:
        return StoredTensor(name, kind, tuple(tensor.shape), parameter, order)
    value = tensor.detach()
    if value.ndim == 1:
        value = value.float() + (found.norm_offset if name.endswith("norm.weight") else 0.0)
    return _dense_tensor(name, parameter, value if order is None else value[order])


def _dense_tensor(name: str, parameter: str, value: torch.Tensor) -> StoredTensor:
    kind = DENSE_TYPES[value.dtype]
    flat = value.view(1, -1) if value.ndim == 1 else value
    return StoredTensor(name, kind, tuple(value.shape), parameter, make=lambda: pack_ggml(flat, kind).data)


def _interleaved(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor | None:
    """Rows of q and k: transformers rotates row i of a head with i + half, llama.cpp's `llama` neighbours."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return None
    return torch.arange(len(tensor)).view(heads, 2, head_width(config) // 2).transpose(1, 2).reshape(-1)


def _content(tensor: StoredTensor, packs: Packs) -> torch.Tensor:
    """The tensor's bytes in the order of the file."""
    if tensor.make is not None:
        return tensor.make()
    if tensor.parameter not in packs:
        raise DatabaseError(f"the plan stores {tensor.parameter} as {tensor.type}, but nothing gives its level")
    packed = packs[tensor.parameter]()
    if (packed.type, packed.shape) != (tensor.type, tensor.shape):
        raise DatabaseError(
            f"the level of {tensor.parameter} is {packed.type} {packed.shape}, planned is {tensor.type} {tensor.shape}"
        )
    data = packed.data.cpu()
    return (data if tensor.order is None else data[tensor.order]).contiguous()


def _source_metadata(reader: Any) -> Iterator[KeyValue]:
    """The source's entries, but for those that describe its own layout and mix of types."""
    for field in reader.fields.values():
        own = field.name.startswith(("GGUF.", "split.")) or field.name in ("general.alignment", "general.file_type")
        if not own and not (field.types[0].name == "ARRAY" and not len(field.data)):
            item = field.types[-1].name if len(field.types) > 1 else None
            yield KeyValue(field.name, field.contents(), field.types[0].name, item)


def _new_metadata(loaded: LoadedModel, found: Architecture) -> Iterator[KeyValue]:
    yield KeyValue("general.architecture", found.name, "STRING")
    yield KeyValue("general.type", "model", "STRING")
    name = Path(loaded.source).name or found.name
    # transformers takes a Llama file of exactly the name `mistral` for an architecture that it then cannot read.
    yield KeyValue("general.name", "Mistral" if name == "mistral" else name, "STRING")
    yield from model_metadata(loaded.model.config)
    yield from tokenizer_metadata(loaded.tokenizer, loaded.model.config.vocab_size)
    yield KeyValue("general.quantization_version", QUANTIZATION, "UINT32")


def _entry_bytes(entry: KeyValue) -> int:
    size = 8 + len(entry.key.encode()) + 4
    if entry.item is None:
        return size + _value_bytes(entry.value, entry.type)
    return size + 4 + 8 + sum(_value_bytes(value, entry.item) for value in entry.value)


def _value_bytes(value: Any, kind: str) -> int:
    return 8 + len(value.encode()) if kind == "STRING" else _SCALARS.get(kind, 8)


def _write_header(writer: Any, plan: GgufPlan) -> None:
    gguf = _gguf()
    kinds = gguf.GGUFValueType
    for entry in plan.metadata:
        if entry.key != "general.architecture":  # the writer has put it there itself
            writer.add_key_value(entry.key, entry.value, kinds[entry.type], entry.item and kinds[entry.item])
    for tensor in plan.tensors:
        # Any dtype but uint8 makes the writer take the shape as that of the weights.
        kind = gguf.GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(tensor.name, tensor.shape, None, tensor.bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtra("the gguf package is not installed: pip install evopress[export]") from None
    return gguf
