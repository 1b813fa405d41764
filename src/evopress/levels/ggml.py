"""Levels that are ggml types, the formats of llama.cpp: what is stored is byte for byte what a GGUF file will hold.

The quantizers are ggml's own, through the package `libgguf`; nothing of theirs is written a second time here. On one
core they take 0.5 (IQ1_M) to 8 million weights a second (Q6_K), and about 2 for most types; unpacking takes 50 to 3000
million a second on the CPU, whatever the device. The packages load when the first weight is quantized, not on import.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evopress.core.ggml_types import GGML_TYPES, ggml_storage_bits, row_bytes
from evopress.errors import BadWeights, ConfigError, DatabaseError, MissingExtra
from evopress.levels.hessian import check_hessian, output_energy, relative_error
from evopress.levels.packed import Compressed
from evopress.levels.stacking import stack_weights


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

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix as ggml unpacks it to fp32, cast to `dtype`; always by way of the CPU."""
        return _unpack(self.data.cpu(), self.type, self.shape[1]).to(self.data.device, dtype)


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
