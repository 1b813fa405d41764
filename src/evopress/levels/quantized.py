"""Quantized matrices as they are stored: packed codes, fp16 scales, packed zeros.

`Quantized.dequantize` runs in the search's inner loop whenever a level is not resident, so it works on whole arrays,
in place. It costs about two passes over the codes and three over the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evopress.errors import DatabaseError
from evopress.levels.grid import Grid
from evopress.levels.packing import pack, packed_bytes, unpack


def storage_bits(shape: tuple[int, int], grid: Grid) -> int:
    """Exact bits of a (rows, columns) matrix on `grid`: its codes, a 16-bit scale and, if stored, a zero per group.

    >>> storage_bits((10, 128), Grid(bits=3, group_size=64))
    4220
    """
    rows, columns = shape
    zero_bits = 0 if grid.symmetric else grid.bits
    return rows * columns * grid.bits + rows * grid.groups(columns) * (16 + zero_bits)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized matrix of `shape` (rows, columns): what `grid` and the three tensors say it is.

    `codes` and `zero` are packed (see packing.py), in the original order of rows and columns; `scale` is fp16 of shape
    (rows, groups); `zero` is empty for symmetric grids.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    shape: tuple[int, int]
    grid: Grid

    @classmethod
    def from_codes(cls, codes: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> "Quantized":
        """Pack uint8 `codes` (rows, columns) with the scales and uint8 zeros (both (rows, groups)) of their groups."""
        rows, columns = codes.shape
        stored_zero = zero[:0, :0].reshape(0) if grid.symmetric else pack(zero, grid.bits)
        return cls(pack(codes, grid.bits), scale.to(torch.float16), stored_zero, (rows, columns), grid)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], grid: Grid) -> "Quantized":
        """The inverse of `tensors`; DatabaseError when a tensor is missing or does not fit `shape` and `grid`."""
        rows, columns = shape
        groups = grid.groups(columns)
        expected = {
            "codes": (torch.uint8, (packed_bytes(rows * columns, grid.bits),)),
            "scale": (torch.float16, (rows, groups)),
        }
        if not grid.symmetric:
            expected["zero"] = (torch.uint8, (packed_bytes(rows * groups, grid.bits),))
        for name, (dtype, size) in expected.items():
            if name not in tensors:
                raise DatabaseError(f"quantized tensor {name!r} is missing, found only {sorted(tensors)}")
            found = tensors[name]
            if found.dtype != dtype or tuple(found.shape) != size:
                raise DatabaseError(
                    f"quantized tensor {name!r} is {found.dtype} {tuple(found.shape)}, must be {dtype} {size}"
                )
        codes = tensors["codes"]
        return cls(codes, tensors["scale"], codes[:0] if grid.symmetric else tensors["zero"], shape, grid)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name: codes, scale and, for asymmetric grids, zero."""
        stored = {"codes": self.codes, "scale": self.scale}
        return stored if self.grid.symmetric else stored | {"zero": self.zero}

    def to(self, device: torch.device | str) -> "Quantized":
        """The same matrix with its tensors on `device`; copies from pinned memory do not wait."""
        codes, scale, zero = (tensor.to(device, non_blocking=True) for tensor in (self.codes, self.scale, self.zero))
        return replace(self, codes=codes, scale=scale, zero=zero)

    @property
    def code_bits(self) -> int:
        """Bits of the codes alone."""
        return self.shape[0] * self.shape[1] * self.grid.bits

    @property
    def storage_bits(self) -> int:
        """Bits of codes, scales and zeros."""
        return storage_bits(self.shape, self.grid)

    def unpacked_codes(self) -> Tensor:
        """The codes as uint8 (rows, columns)."""
        rows, columns = self.shape
        return unpack(self.codes, self.grid.bits, rows * columns).view(rows, columns)

    def unpacked_zeros(self) -> Tensor:
        """The zeros as uint8 (rows, groups), spelled out for symmetric grids too."""
        if self.grid.symmetric:
            return torch.full_like(self.scale, 2 ** (self.grid.bits - 1), dtype=torch.uint8)
        return unpack(self.zero, self.grid.bits, self.scale.numel()).view(self.scale.shape)

    def rows(self, first: int, count: int) -> "Quantized":
        """`count` of its rows, from row `first` on, as a matrix of their own."""
        own = slice(first, first + count)
        return self.from_codes(self.unpacked_codes()[own], self.scale[own], self.unpacked_zeros()[own], self.grid)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix ``(code - zero) * scale``, computed in fp32 and cast to `dtype`."""
        rows, columns = self.shape
        values = self.unpacked_codes().float()
        scale, zero = self.scale.float(), self.unpacked_zeros().float()
        width = self.grid.width(columns)
        whole = columns // width * width
        _to_values(values[:, :whole].view(rows, -1, width), scale[:, : whole // width], zero[:, : whole // width])
        if whole < columns:
            _to_values(values[:, whole:].unsqueeze(1), scale[:, -1:], zero[:, -1:])
        return values.to(dtype)


def _to_values(codes: Tensor, scale: Tensor, zero: Tensor) -> None:
    """Turn float `codes` (rows, groups, width) into values in place."""
    codes.sub_(zero.unsqueeze(2)).mul_(scale.unsqueeze(2))
