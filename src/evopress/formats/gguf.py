"""A GGUF file for llama.cpp: each weight as the bytes of its level, so the runtime computes with what was searched.

First a plan, which knows every byte of the file from names, shapes and types alone; then one pass that writes it
tensor by tensor, so memory holds one of them. The file appears under its name only when it is whole. A model that came
from a GGUF file keeps that file's metadata, tokenizer and all tensors that are not replaced, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evopress.core.files import replacing, require_disk
from evopress.core.ggml_types import padded, row_bytes
from evopress.errors import DatabaseError, MissingExtra, ProfileError, UnsupportedModel
from evopress.formats.gguf_experts import Part, Stack, stacks
from evopress.formats.gguf_metadata import (
    Architecture,
    KeyValue,
    architecture,
    head_width,
    header_bytes,
    model_metadata,
    rope_factors,
    source_metadata,
)
from evopress.formats.gguf_tokenizer import tokenizer_metadata
from evopress.formats.hf import stored_tensors
from evopress.levels.ggml import Ggml, pack_ggml
from evopress.models import LoadedModel
from evopress.models.gguf_parts import open_gguf
from evopress.models.load import gguf_file

QUANTIZATION = 2  # the version of ggml's formats that all its files have
DENSE_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

Packs = Mapping[str, Callable[[], Ggml]]
"""Parameter name -> what reads its packed matrix, rows in the model's own order."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file: its GGUF `name`, ggml `type` and `shape`, the last number being a row's.

    `parameter` is the model's name, `parts` are those of a stack of experts. `order` says which row comes where (None:
    as they are). `make` makes the bytes, uint8 (rows, bytes of a row), of tensors that are no level.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    parameter: str
    order: torch.Tensor | None = None
    make: Callable[[], torch.Tensor] | None = None
    parts: tuple[Part, ...] = ()

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
    metadata = tuple(_new_metadata(loaded, found) if reader is None else source_metadata(reader))
    parameters = dict(stored_tensors(loaded.model))
    unknown = sorted(set(types) - {name for name, tensor in parameters.items() if tensor.ndim == 2})
    if unknown:
        raise ProfileError(f"{unknown[0]} is no stored weight matrix of the model; a tied head goes by its embeddings")
    name = _naming(found, config.num_hidden_layers)
    experts = stacks(loaded.model, parameters, name)
    inside = {part.parameter for stack in experts for part in stack.parts}
    names = _names(found, name, inside, parameters)
    kept = {} if reader is None else {tensor.name: tensor for tensor in reader.tensors}
    tensors = [
        _from_file(kept[gguf_name], name)
        if gguf_name in kept and name not in types
        else _from_model(gguf_name, name, parameters[name], types.get(name), found, config)
        for name, gguf_name in names.items()
    ]
    for stack in experts:
        kind = stack.type(types)
        own = kind is None and stack.name in kept
        tensors.append(_from_file(kept[stack.name], "") if own else _from_stack(stack, kind, parameters))
    written = {tensor.name for tensor in tensors}
    tensors += [_from_file(tensor, name) for name, tensor in kept.items() if name not in written]
    factors = rope_factors(config)
    if factors is not None and "rope_freqs.weight" not in kept:
        tensors.append(_dense_tensor("rope_freqs.weight", "", factors))
    return GgufPlan(found.name, metadata, tuple(tensors))


def predicted_bytes(plan: GgufPlan) -> int:
    """The exact size of the file that `export_gguf` writes."""
    header = header_bytes(plan.metadata) + sum(map(announcement_bytes, plan.tensors))
    return padded(header) + sum(padded(tensor.bytes) for tensor in plan.tensors)


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
    """The model's parameter names -> the names of their tensors in GGUF; UnsupportedModel for one that has none.

    Those of experts are left out: they are parts of tensors.
    """
    config, parameters = loaded.model.config, dict(stored_tensors(loaded.model))
    found = architecture(config)
    name = _naming(found, config.num_hidden_layers)
    inside = {part.parameter for stack in stacks(loaded.model, parameters, name) for part in stack.parts}
    return _names(found, name, inside, parameters)


def _naming(found: Architecture, blocks: int) -> Callable[[str], str | None]:
    """What gives a parameter's name in GGUF."""
    gguf = _gguf()
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == found.name)
    table = gguf.get_tensor_name_map(kind, blocks)

    def name(parameter: str) -> str | None:
        known: str | None = table.get_name(parameter, try_suffixes=(".weight", ".bias"))
        return known

    return name


def _names(
    found: Architecture, name: Callable[[str], str | None], inside: Container[str], parameters: Iterable[str]
) -> dict[str, str]:
    names = {}
    for parameter in parameters:
        if parameter in inside:
            continue
        known = name(parameter)
        if known is None:
            raise UnsupportedModel(f"{parameter} has no place in a GGUF file of the architecture {found.name}")
        names[parameter] = known
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
    if ".ffn_gate_inp" in name:
        value = value.float()  # as llama.cpp has routers: products with half precision would round what chooses
        value = value[0] if len(value) == 1 else value  # a shared expert's gate is a vector there
    elif value.ndim == 1:
        value = value.float() + (found.norm_offset if name.endswith("norm.weight") else 0.0)
    return _dense_tensor(name, parameter, value if order is None else value[order])


def _from_stack(stack: Stack, kind: str | None, parameters: Mapping[str, torch.Tensor]) -> StoredTensor:
    """All experts' matrices, dense ones in the model's own dtype where there is no type for them."""
    if kind is not None:
        return StoredTensor(stack.name, kind, stack.shape, "", parts=stack.parts)
    own = DENSE_TYPES[parameters[stack.parts[0].parameter].dtype]

    def make() -> torch.Tensor:
        values = (parameters[part.parameter].detach()[part.first : part.first + part.count] for part in stack.parts)
        return torch.cat([pack_ggml(value.contiguous(), own).data for value in values])

    return StoredTensor(stack.name, own, stack.shape, "", make=make)


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
    if tensor.parts:
        return torch.cat(
            [
                _packed(part.parameter, tensor.type, None, packs)[part.first : part.first + part.count]
                for part in tensor.parts
            ]
        )
    data = _packed(tensor.parameter, tensor.type, tensor.shape, packs)
    return (data if tensor.order is None else data[tensor.order]).contiguous()


def _packed(parameter: str, kind: str, shape: tuple[int, ...] | None, packs: Packs) -> torch.Tensor:
    """The bytes of a level, (rows, bytes of a row); DatabaseError for one that is not as planned."""
    if parameter not in packs:
        raise DatabaseError(f"the plan stores {parameter} as {kind}, but nothing gives its level")
    packed = packs[parameter]()
    if (packed.type, packed.shape) != (kind, shape or packed.shape):
        raise DatabaseError(f"the level of {parameter} is {packed.type} {packed.shape}, planned is {kind} {shape}")
    return packed.data.cpu()


def _new_metadata(loaded: LoadedModel, found: Architecture) -> Iterator[KeyValue]:
    yield KeyValue("general.architecture", found.name, "STRING")
    yield KeyValue("general.type", "model", "STRING")
    name = Path(loaded.source).name or found.name
    # transformers takes a Llama file of exactly the name `mistral` for an architecture that it then cannot read.
    yield KeyValue("general.name", "Mistral" if name == "mistral" else name, "STRING")
    yield from model_metadata(loaded.model.config)
    yield from tokenizer_metadata(loaded.tokenizer, loaded.model.config.vocab_size)
    yield KeyValue("general.quantization_version", QUANTIZATION, "UINT32")


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
