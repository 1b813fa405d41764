"""Levels that are ggml types, the formats of llama.cpp: what is stored is byte for byte what a GGUF file will hold.

The quantizers are ggml's own, through the package `libgguf`; nothing of theirs is written a second time here. On one
core they take 0.5 (IQ1_M) to 8 million weights a second (Q6_K), and about 2 for most types; unpacking takes 50 to 3000
million a second on the CPU, whatever the device. The packages load when the first weight is quantized, not on import.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evopress.compress.hessian import check_hessian, output_energy, relative_error
from evopress.compress.packed import Compressed
from evopress.compress.stacking import stack_weights
from evopress.errors import BadWeights, ConfigError, DatabaseError, MissingExtra


@dataclass(frozen=True)
class GgmlType:
    """How a type lays out a row: every `block` weights take `bytes` bytes.

    `fallback` is what llama-quantize takes instead where the block does not divide a row (None: it gives up), and
    `needs_importance` says that it refuses the type without an importance matrix.
    """

    block: int
    bytes: int
    fallback: str | None = None
    needs_importance: bool = False


# ggml's block sizes, and the rules of llama.cpp's src/llama-quant.cpp (tensor_type_fallback, tensor_requires_imatrix).
# Before 2026 its Q2_K and Q3_K fell back to IQ4_NL, which has the same size as Q4_0.
GGML_TYPES: Mapping[str, GgmlType] = {
    "IQ1_S": GgmlType(256, 50, "IQ4_NL", True),
    "TQ1_0": GgmlType(256, 54, "Q4_0"),
    "IQ1_M": GgmlType(256, 56, "IQ4_NL", True),
    "IQ2_XXS": GgmlType(256, 66, "IQ4_NL", True),
    "TQ2_0": GgmlType(256, 66, "Q4_0"),
    "IQ2_XS": GgmlType(256, 74, "IQ4_NL", True),
    "IQ2_S": GgmlType(256, 82, "IQ4_NL", True),
    "Q2_K": GgmlType(256, 84, "Q4_0"),
    "IQ3_XXS": GgmlType(256, 98, "IQ4_NL", True),
    "IQ3_S": GgmlType(256, 110, "IQ4_NL"),
    "Q3_K": GgmlType(256, 110, "Q4_0"),
    "IQ4_XS": GgmlType(256, 136, "IQ4_NL"),
    "MXFP4": GgmlType(32, 17),
    "IQ4_NL": GgmlType(32, 18),
    "Q4_0": GgmlType(32, 18),
    "Q4_K": GgmlType(256, 144, "Q5_0"),
    "Q4_1": GgmlType(32, 20),
    "Q5_0": GgmlType(32, 22),
    "Q5_K": GgmlType(256, 176, "Q5_1"),
    "Q5_1": GgmlType(32, 24),
    "Q6_K": GgmlType(256, 210, "Q8_0"),
    "Q8_0": GgmlType(32, 34),
    "BF16": GgmlType(1, 2),
    "F16": GgmlType(1, 2),
    "F32": GgmlType(1, 4),
}
"""Every type that can be a level, the smallest first."""


def ggml_type(name: str) -> GgmlType:
    """The type called `name`; ConfigError lists those that exist.

    >>> ggml_type("Q4_K")
    GgmlType(block=256, bytes=144, fallback='Q5_0', needs_importance=False)
    """
    if name not in GGML_TYPES:
        raise ConfigError(f"ggml type {name!r} is unknown, must be one of {', '.join(GGML_TYPES)}")
    return GGML_TYPES[name]


def fitting_type(name: str, columns: int) -> str:
    """The type that a row of `columns` weights really gets when `name` is asked for, as llama-quantize chooses it.

    ConfigError where llama-quantize gives up too: a row that no block of 32 divides, and a type without fallback.

    >>> fitting_type("Q3_K", 1536), fitting_type("Q3_K", 576), fitting_type("Q3_K", 100)
    ('Q3_K', 'Q4_0', 'F16')
    """
    wanted = ggml_type(name)
    if columns % wanted.block == 0:
        return name
    if wanted.fallback is None:
        raise ConfigError(f"ggml type {name} does not fit {columns} columns, {wanted.block} must divide them")
    return wanted.fallback if columns % GGML_TYPES[wanted.fallback].block == 0 else "F16"


def fitting_types(names: Iterable[str], columns: int) -> tuple[str, ...]:
    """What rows of `columns` weights can choose from when `names` are asked for: no two of one size, smallest first.

    Of types of one size the one that was asked for first stays, because a level must have a cost of its own.

    >>> fitting_types(["Q2_K", "Q3_K", "Q4_K", "Q6_K"], 576)
    ('Q4_0', 'Q5_0', 'Q8_0')
    """
    of_size: dict[int, str] = {}
    for name in names:
        fitting = fitting_type(name, columns)
        of_size.setdefault(row_bytes(fitting, columns), fitting)
    return tuple(of_size[size] for size in sorted(of_size))


def row_bytes(name: str, columns: int) -> int:
    """Bytes of one row of `columns` weights; ConfigError when the type's block does not divide them.

    >>> row_bytes("Q4_K", 512)
    288
    """
    kind = ggml_type(name)
    if columns % kind.block:
        raise ConfigError(f"ggml type {name} does not fit {columns} columns, {kind.block} must divide them")
    return columns // kind.block * kind.bytes


def ggml_storage_bits(shape: tuple[int, int], name: str) -> int:
    """Exact bits of a (rows, columns) matrix stored as the type `name`.

    >>> ggml_storage_bits((10, 256), "Q6_K")
    16800
    """
    return shape[0] * row_bytes(name, shape[1]) * 8


@dataclass(frozen=True, eq=False)
class Ggml:
    """A matrix of `shape` (rows, columns) as ggml stores it: `data` is uint8 (rows, bytes of a row) of type `type`."""

    data: Tensor
    shape: tuple[int, int]
    type: str

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], type: str) -> "Ggml":
        """The inverse of `tensors`; DatabaseError when the bytes are missing or do not fit `shape` and `type`."""
        if "data" not in tensors:
            raise DatabaseError(f"ggml tensor 'data' is missing, found only {sorted(tensors)}")
        data, size = tensors["data"], (shape[0], row_bytes(type, shape[1]))
        if data.dtype != torch.uint8 or tuple(data.shape) != size:
            raise DatabaseError(f"ggml tensor 'data' is {data.dtype} {tuple(data.shape)}, must be torch.uint8 {size}")
        return cls(data, shape, type)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name: data."""
        return {"data": self.data}

    def to(self, device: torch.device | str) -> "Ggml":
        """The same matrix with its bytes on `device`; copies from pinned memory do not wait."""
        return replace(self, data=self.data.to(device, non_blocking=True))

    @property
    def storage_bits(self) -> int:
        """Bits of all that is stored; ggml keeps scales inside its blocks, so there is nothing else."""
        return ggml_storage_bits(self.shape, self.type)

    def dequantize(self, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Tensor:
        """The matrix as ggml unpacks it to fp32, cast to `dtype`, or to the dtype of `out`; always by way of the CPU.

        `out`, if given, is filled and returned; ConfigError when its shape is not (rows, columns).
        """
        if out is not None and tuple(out.shape) != tuple(self.shape):
            raise ConfigError(f"buffer has shape {tuple(out.shape)}, must be {tuple(self.shape)}")
        values = _unpack(self.data.cpu(), self.type, self.shape[1])
        return values.to(self.data.device, dtype) if out is None else out.copy_(values)


def quantize_ggml(
    weights: Sequence[Tensor],
    types: Sequence[str],
    *,
    hessian: Tensor | None = None,
    importance: bool = True,
) -> list[list[Compressed[Ggml]]]:
    """Quantize each of `weights` (rows, columns) to each of `types`; the answer is indexed [weight][type].

    With a `hessian` (columns, columns) the errors are measured on it, without one on uncorrelated inputs; unless
    `importance` is false its diagonal, the mean square of each input, is the importance matrix. ConfigError for a type
    that does not fit or lacks importance, BadWeights for NaN, infinity or weights too large for the type's scales.
    """
    stack = stack_weights(weights)
    columns = stack.shape[1]
    matrix = None
    if hessian is not None:
        check_hessian(hessian, columns)
        matrix = importance_matrix(hessian) if importance else None
    measure = torch.eye(columns, dtype=stack.dtype, device=stack.device) if hessian is None else hessian
    return [
        [_compress(part, name, matrix, measure) for name in types]
        for part in torch.split(stack, [len(weight) for weight in weights])
    ]


def importance_matrix(hessian: Tensor) -> Tensor:
    """What ggml calls an importance matrix, fp32 (columns,): how large each input is squared, on average.

    An input that was never seen counts as much as the least seen, since ggml writes zeros for blocks without
    importance, and 1 when nothing was seen at all, as llama-quantize has it.
    """
    diagonal = hessian.diagonal().float().cpu()
    seen = diagonal[diagonal > 0]
    return torch.where(diagonal > 0, diagonal, seen.min() if len(seen) else torch.ones(()))


def pack_ggml(weight: Tensor, name: str, importance: Tensor | None = None) -> Ggml:
    """One `weight` (rows, columns) as the type `name`, with importance (columns,) or none; errors as `quantize_ggml`.

    >>> tuple(pack_ggml(torch.ones(2, 32), "Q8_0").data.shape)
    (2, 34)
    """
    rows, columns = weight.shape
    size = row_bytes(name, columns)
    if importance is None and GGML_TYPES[name].needs_importance:
        raise ConfigError(f"ggml type {name} needs an importance matrix, which takes calibration text")
    dense = weight.detach().cpu().float().contiguous().numpy()
    matrix = None if importance is None else importance.cpu().float().contiguous().numpy()
    libgguf = _libgguf()
    stored = libgguf.quantize_rows(dense, libgguf.GGMLQuantizationType[name], matrix)
    packed = Ggml(torch.from_numpy(stored).view(torch.uint8).view(rows, size), (rows, columns), name)
    if not bool(packed.dequantize().isfinite().all()):
        raise BadWeights(f"weights up to {float(weight.abs().max()):g} are too large for the ggml type {name}")
    return packed


def _compress(weight: Tensor, name: str, importance: Tensor | None, hessian: Tensor) -> Compressed[Ggml]:
    packed = pack_ggml(weight, name, importance)
    error = output_energy(weight - packed.dequantize(weight.dtype).to(weight.device), hessian)
    return Compressed(packed, relative_error(error, output_energy(weight, hessian)), damping=0.0)


def _unpack(data: Tensor, name: str, columns: int) -> Tensor:
    """fp32 (rows, columns) on the CPU from the bytes of rows, always in memory of its own."""
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if name in plain:
        return data.contiguous().view(plain[name]).to(torch.float32, copy=True)
    libgguf = _libgguf()
    values: Tensor = torch.from_numpy(
        libgguf.dequantize_rows(data.contiguous().numpy(), libgguf.GGMLQuantizationType[name], columns)
    )
    return values


def _libgguf() -> Any:
    try:
        import libgguf
    except ImportError:
        raise MissingExtra("ggml's quantizers are not installed: pip install evopress[export]") from None
    return libgguf
