"""Quantization grids: which values a group of weights may take.

A weight w of a group with scale s and zero z becomes the code ``clamp(round(w / s) + z, 0, 2**bits - 1)``, which stands
for ``(code - z) * s``. The scale is rounded to fp16 before any weight meets it, so what is optimised is what is stored.
Fitting costs one minimum and one maximum over the group.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from evopress.errors import ConfigError

MIN_SCALE = 2.0**-24  # the smallest positive fp16 number: a scale is never zero ...
MAX_SCALE = 65504.0  # ... and never infinite
MAX_SHORT = 65280.0  # the largest number that fp16 and bf16 both hold


@dataclass(frozen=True)
class Grid:
    """One way to quantize a matrix: code width, columns per scale, and where zero lies.

    `group_size` None means one group per row; a size that does not divide the columns leaves a smaller last group.
    Symmetric grids centre the signed codes, so their zero is always ``2**(bits - 1)`` and is not stored. They are what
    servers run, and these hold scales in the model's dtype: symmetric scales are numbers of both fp16 and bf16.

    >>> Grid(bits=3, group_size=64).groups(columns=100)
    2
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ConfigError(f"bits is {self.bits}, must be 1 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(f"group size is {self.group_size}, must be at least 1, or None for whole rows")

    @property
    def top(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    def width(self, columns: int) -> int:
        """Columns per group in a matrix of `columns`; ConfigError when the group is wider than the matrix."""
        if self.group_size is None:
            return columns
        if self.group_size > columns:
            raise ConfigError(f"group size is {self.group_size}, must be at most the {columns} columns of the weight")
        return self.group_size

    def groups(self, columns: int) -> int:
        """Groups per row of a matrix of `columns`, counting a smaller last one."""
        return -(-columns // self.width(columns))

    def spans(self, columns: int) -> list[slice]:
        """The columns of each group, in order."""
        width = self.width(columns)
        return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]


def named_grids(widths: Iterable[str], group_size: int | None, symmetric: bool) -> dict[str, Grid]:
    """Level name -> grid: levels are called after their bits.

    >>> named_grids(["3", "4"], 128, False)["3"]
    Grid(bits=3, group_size=128, symmetric=False)
    """
    return {name: Grid(int(name), group_size, symmetric) for name in widths}


def fit(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scales and zeros, one per group, from each group's lowest and highest weight; zero is always representable.

    The scales are fp16 numbers held in the dtype of `low`; the zeros are whole numbers from 0 to ``grid.top``.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    # Divided one by one, so that the spread of the largest weights does not overflow.
    scale = storable(high / grid.top - low / grid.top, grid)
    if grid.symmetric:
        return scale, torch.full_like(scale, 2 ** (grid.bits - 1))
    return scale, (-low / scale).round_().clamp_(0, grid.top)


def storable(scale: Tensor, grid: Grid) -> Tensor:
    """The nearest scales that a grid can store, in the dtype of `scale`: numbers of fp16, if symmetric also of bf16."""
    if grid.symmetric:
        return scale.clamp(MIN_SCALE, MAX_SHORT).to(torch.float16).to(torch.bfloat16).to(scale.dtype)
    return scale.clamp(MIN_SCALE, MAX_SCALE).to(torch.float16).to(scale.dtype)
