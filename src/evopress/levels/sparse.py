"""Sparse matrices as they are stored: one bit per weight for where the kept weights are, and their values in 16 bits.

`Sparse.dequantize` runs in the search's inner loop whenever a level is not resident. It counts the bits of the mask and
gathers by these numbers: about five passes over the matrix, whatever the density, in chunks that stay in the cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evopress.errors import ConfigError, DatabaseError
from evopress.levels.packing import pack, packed_bytes, unpack

DTYPES = (torch.bfloat16, torch.float16, torch.float32)  # what kept weights may be stored as
CHUNK = 2**17  # weights that are packed or unpacked at a time: temporary numbers take 8 bytes for each


def sparse_storage_bits(shape: tuple[int, int], zeros: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Exact bits of a (rows, columns) matrix with `zeros` dropped weights: its mask and the values of the others.

    >>> sparse_storage_bits((10, 128), zeros=640)
    11520
    """
    rows, columns = shape
    return rows * columns + (rows * columns - zeros) * dtype.itemsize * 8


def stored_dtype(weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> torch.dtype:
    """What kept weights are stored as: `dtype`, or for None the weights' own if it has 16 bits, else bfloat16.

    ConfigError for a dtype that is not one of DTYPES.
    """
    if dtype is None:
        own = {weight.dtype for weight in weights}
        return own.pop() if len(own) == 1 and own < {torch.bfloat16, torch.float16} else torch.bfloat16
    if dtype not in DTYPES:
        known = ", ".join(str(known) for known in DTYPES)
        raise ConfigError(f"weights cannot be stored as {dtype}, must be one of {known}")
    return dtype


@dataclass(frozen=True, eq=False)
class Sparse:
    """A pruned matrix of `shape` (rows, columns): a bit for each weight, and the kept weights row by row.

    `mask` is packed (see packing.py), 1 for a kept weight; `values` (kept,) is of one of DTYPES. A weight is a zero if
    its bit is unset; a kept weight may well be 0 too.
    """

    mask: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_dense(cls, dense: Tensor, kept: Tensor, dtype: torch.dtype = torch.bfloat16) -> "Sparse":
        """Store of `dense` (rows, columns) what the uint8 mask `kept` (rows, columns) keeps.

        ConfigError when a kept weight is not finite in `dtype`.
        """
        rows, columns = dense.shape
        kept = kept.contiguous()  # read twice
        values = _gather(dense, kept, dtype)
        if not bool(values.isfinite().all()):
            raise ConfigError(f"a kept weight is too large for {dtype}, must be at most {torch.finfo(dtype).max:g}")
        return cls(pack(kept, 1), values, (rows, columns))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], zeros: int) -> "Sparse":
        """The inverse of `tensors`; DatabaseError when a tensor is missing or does not fit `shape` and `zeros`."""
        rows, columns = shape
        expected = {
            "mask": ((torch.uint8,), (packed_bytes(rows * columns, 1),)),
            "values": (DTYPES, (rows * columns - zeros,)),
        }
        for name, (dtypes, size) in expected.items():
            if name not in tensors:
                raise DatabaseError(f"sparse tensor {name!r} is missing, found only {sorted(tensors)}")
            found = tensors[name]
            if found.dtype not in dtypes or tuple(found.shape) != size:
                known = " or ".join(str(dtype) for dtype in dtypes)
                raise DatabaseError(
                    f"sparse tensor {name!r} is {found.dtype} {tuple(found.shape)}, must be {known} {size}"
                )
        return cls(tensors["mask"], tensors["values"], shape)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name: mask and values."""
        return {"mask": self.mask, "values": self.values}

    def to(self, device: torch.device | str) -> "Sparse":
        """The same matrix with its tensors on `device`; copies from pinned memory do not wait."""
        mask, values = (tensor.to(device, non_blocking=True) for tensor in (self.mask, self.values))
        return replace(self, mask=mask, values=values)

    @property
    def zeros(self) -> int:
        """How many weights were dropped."""
        return self.shape[0] * self.shape[1] - self.values.numel()

    @property
    def storage_bits(self) -> int:
        """Bits of mask and values."""
        return sparse_storage_bits(self.shape, self.zeros, self.values.dtype)

    def unpacked_mask(self) -> Tensor:
        """The mask as uint8 (rows, columns), 1 for a kept weight."""
        rows, columns = self.shape
        return unpack(self.mask, 1, rows * columns).view(rows, columns)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense matrix, cast to `dtype`."""
        values = self.values.to(dtype)
        dense = values.new_empty(self.shape)
        _scatter(torch.cat([values.new_zeros(1), values]), self.unpacked_mask().view(-1), dense.view(-1))
        return dense


def _gather(dense: Tensor, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights of `dense` (rows, columns) that the mask `kept` (rows, columns) keeps, row by row."""
    parts = []
    rows = max(1, CHUNK // dense.shape[1])
    for weights, mask in zip(torch.split(dense, rows), torch.split(kept, rows), strict=True):
        mask = mask.reshape(-1)
        # A kept weight goes to its number among the kept, counted from 1; a dropped one to place 0, which is cut off.
        places = mask.cumsum(0)
        values = weights.new_empty(int(places[-1]) + 1, dtype=dtype)
        parts.append(values.scatter_(0, places.mul_(mask), weights.to(dtype, copy=True).reshape(-1))[1:])
    return torch.cat(parts)


def _scatter(values: Tensor, kept: Tensor, dense: Tensor) -> None:
    """The inverse of `_gather`: fill `dense` (n,) from `values`, before the first of which stands a 0."""
    seen = torch.zeros((), dtype=torch.int32, device=kept.device)
    for weights, mask in zip(torch.split(dense, CHUNK), torch.split(kept, CHUNK), strict=True):
        places = mask.cumsum(0, dtype=torch.int32).add_(seen)
        seen = places[-1].clone()
        torch.index_select(values, 0, places.mul_(mask), out=weights)
