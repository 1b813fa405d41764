"""What the packed forms of a compressed matrix have in common, so that nobody else needs to know which one it is."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


class Packed(Protocol):
    """A compressed matrix (rows, columns) as it is stored: `Quantized`, `Sparse` or `Ggml`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def storage_bits(self) -> int:
        """Bits of everything that is stored."""

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""

    def to(self, device: torch.device | str) -> "Packed":
        """The same matrix with its tensors on `device`; copies from pinned memory do not wait."""

    def dequantize(self, dtype: torch.dtype = ...) -> Tensor:
        """The dense matrix in `dtype`."""


P = TypeVar("P", bound=Packed, covariant=True)


@dataclass(frozen=True)
class Compressed(Generic[P]):
    """A compressed weight and what it cost: `error` is the relative squared output error ||(W-Wc)X||^2 / ||WX||^2.

    `damping` is what the Hessian really needed, relative to its mean diagonal; 0 for methods that use none.
    """

    tensor: P
    error: float
    damping: float
