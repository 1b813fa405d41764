"""A packed level as numbers that an optimiser moves, and back to exactly the same format.

A learnable weight starts as its packed level, bit for bit, and whatever is learned packs into as many bits, on the same
grid or mask. What is stored rounded is rounded in the forward pass, and the gradient passes straight through the
rounding (Bengio et al., arXiv 1308.3432). All numbers to learn are relative, so that one learning rate serves all
layers. They take 4 bytes a weight, and an optimiser that keeps two moments 8 more, for as long as a block is learned.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from evopress.core.ggml_types import GGML_TYPES, GgmlType
from evopress.levels.ggml import Ggml
from evopress.levels.grid import MAX_SCALE, MAX_SHORT, MIN_SCALE
from evopress.levels.packed import Packed
from evopress.levels.quantized import Quantized
from evopress.levels.sparse import Sparse

EDGE = 0.2  # how far from the rounding point a number starts whose code is another than the nearest, in codes
LEAST_STRETCH = 1 / 16  # of a scale: none turns over
RANK = 32  # of what a dense weight changes by


class Learnable(Protocol):
    """A weight (rows, columns) to be learned within its format.

    `floats` is what is stored as floating point; both are fp32, and require grad once a caller says so. A format
    without codes has None.
    """

    @property
    def codes(self) -> Tensor | None:
        """What decides between codes, or None."""

    floats: Tensor

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The dense weight (rows, columns), differentiable: what `packed` dequantizes to, bit for bit."""

    def confine(self) -> None:
        """Bring what an optimiser has moved back into the range of the format."""

    def packed(self) -> Packed:
        """The level as it is now."""


def learnable(packed: Packed, dense: Tensor | None = None) -> Learnable | None:
    """The learnable form of a level whose original weight is `dense` (rows, columns), needed where codes shall change.

    None for a format in which nothing can be learned: ggml types without a floating point number in their blocks.
    """
    if isinstance(packed, Quantized):
        return LearnableGrid(packed, dense)
    if isinstance(packed, Sparse):
        return LearnableSparse(packed) if packed.zeros else LearnableUpdate(packed)
    if isinstance(packed, Ggml) and GGML_TYPES[packed.type].scales:
        return LearnableGgml(packed)
    return None


class LearnableGrid:
    """A `Quantized` weight: places between codes, and a stretch of each group's scale. Zeros stay.

    `codes` (rows, groups, width) are places in units of the grid, which round to codes. A place starts at the original
    weight, or where another code was chosen for it, just inside of that code: so learning continues the choice, and
    the codes that were a close call turn first. `floats` (rows, groups, 1) start at 1.

    >>> from evopress.levels.grid import Grid
    >>> from evopress.levels.rtn import quantize_rtn
    >>> dense = torch.tensor([[0.1, -0.4, 0.3, 0.7]])
    >>> level = quantize_rtn([dense], [Grid(bits=2)])[0][0].tensor
    >>> form = LearnableGrid(level, dense)
    >>> torch.equal(form.weight(torch.float32), level.dequantize())
    True
    """

    def __init__(self, packed: Quantized, dense: Tensor | None) -> None:
        self.shape, self.grid = packed.shape, packed.grid
        self._scale = packed.scale.float()[..., None]
        self._zero = packed.unpacked_zeros().float()[..., None]
        codes = self._grouped(packed.unpacked_codes().float())
        wanted = codes if dense is None else self._grouped(dense.float()) / self._scale + self._zero
        self.codes = torch.minimum(torch.maximum(wanted, codes - (0.5 - EDGE)), codes + (0.5 - EDGE))
        self.floats = torch.ones_like(self._scale)

    def _grouped(self, matrix: Tensor) -> Tensor:
        """(rows, columns) -> (rows, groups, width), zeros where the last group is smaller."""
        rows, columns = self.shape
        width = self.grid.width(columns)
        missing = self.grid.groups(columns) * width - columns
        return torch.nn.functional.pad(matrix, (0, missing)).view(rows, -1, width)

    @property
    def scale(self) -> Tensor:
        """The scales (rows, groups, 1) as they are stored, in fp32, differentiable."""
        return _StoredScale.apply(self._scale * self.floats, self.grid.symmetric)  # type: ignore[no-any-return, no-untyped-call]

    def weight(self, dtype: torch.dtype) -> Tensor:
        """``(code - zero) * scale``, computed in fp32 and cast to `dtype`."""
        values = _OnGrid.apply(self.codes, self.scale, self._zero, self.grid.top, dtype)  # type: ignore[no-untyped-call]
        rows, columns = self.shape
        return values.view(rows, -1)[:, :columns]  # type: ignore[no-any-return]

    def confine(self) -> None:
        """Places stay within half a code of the outermost codes."""
        self.codes.data.clamp_(-0.5, self.grid.top + 0.5)
        self.floats.data.clamp_(min=LEAST_STRETCH)

    def packed(self) -> Quantized:
        """Codes and stored scales; the zeros as they were."""
        rows, columns = self.shape
        codes = self.codes.detach().round().clamp_(0, self.grid.top).to(torch.uint8).view(rows, -1)[:, :columns]
        zero = self._zero[..., 0].to(torch.uint8)
        return Quantized.from_codes(codes.contiguous(), self.scale.detach()[..., 0], zero, self.grid)


class LearnableSparse:
    """A `Sparse` weight: the mask stays, each kept value moves. `floats` (rows, columns) start at 0.

    They are changes of the values in units of the matrix's root mean square.
    """

    codes: Tensor | None = None

    def __init__(self, packed: Sparse) -> None:
        self._mask, self._stored = packed.unpacked_mask(), packed.values.dtype
        self._values = packed.dequantize()
        self._unit = float(self._values.square().mean().sqrt())
        self.floats = torch.zeros_like(self._values)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Values rounded to how they are stored, zeros elsewhere, cast to `dtype`."""
        moved = torch.addcmul(self._values, self.floats, self._mask, value=self._unit)
        return _Rounded.apply(moved, self._stored, dtype)  # type: ignore[no-any-return, no-untyped-call]

    def confine(self) -> None:
        """Nothing to do: values that are too large are stored as the largest ones."""

    def packed(self) -> Sparse:
        """The same mask with the values of now."""
        return Sparse.from_dense(self.weight(torch.float32).detach(), self._mask, self._stored)


class LearnableUpdate:
    """A dense weight, stored as a `Sparse` one that keeps everything, and a product of two thin matrices added to it.

    `floats` (rank, rows + columns) has both factors side by side. The first is 0 at the start, the second is drawn, the
    same in every process (LoRA, arXiv 2106.09685). The product is in units of the matrix's root mean square.
    """

    codes: Tensor | None = None

    def __init__(self, packed: Sparse) -> None:
        self._values, self._stored = packed.dequantize(), packed.values.dtype
        rows, columns = packed.shape
        rank = min(RANK, rows, columns)
        drawn = torch.randn(rank, columns, generator=torch.Generator().manual_seed(rows * columns))
        self._unit = float(self._values.square().mean().sqrt()) / rank**0.5
        self.floats = torch.cat([torch.zeros(rank, rows), drawn], dim=1).to(self._values.device)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The sum, rounded to how it is stored and cast to `dtype`."""
        rows = len(self._values)
        left, right = self.floats[:, :rows], self.floats[:, rows:]
        moved = torch.addmm(self._values, left.T, right, alpha=self._unit)
        return _Rounded.apply(moved, self._stored, dtype)  # type: ignore[no-any-return, no-untyped-call]

    def confine(self) -> None:
        """Nothing to do: values that are too large are stored as the largest ones."""

    def packed(self) -> Sparse:
        """The sum in the same bytes."""
        merged = self.weight(torch.float32).detach()
        return Sparse.from_dense(merged, torch.ones_like(merged, dtype=torch.uint8), self._stored)


class LearnableGgml:
    """A `Ggml` weight: stretches of the fp16 scales and minima of its blocks. Codes and the scales' own codes stay.

    `floats` (scales of a block, blocks, 1) start at 1. What a scale is multiplied with is found by unpacking the same
    bytes with that scale at 1 and the others at 0, so ggml alone knows how its types lay out the rest.
    """

    codes: Tensor | None = None

    def __init__(self, packed: Ggml) -> None:
        self._packed, self._type = packed, GGML_TYPES[packed.type]
        self._scales = _scales_of(packed.data, self._type)
        one, device = torch.eye(len(self._type.scales)).unbind(), packed.data.device
        units = [self._with(row.to(device)[:, None].expand(self._scales.shape[:2])) for row in one]
        self._units = torch.stack([unit.dequantize().view(-1, self._type.block) for unit in units])
        self.floats = torch.ones_like(self._scales)

    def _with(self, scales: Tensor) -> Ggml:
        """The same bytes with other scales (scales of a block, blocks)."""
        blocks = self._packed.data.clone().view(-1, self._type.bytes)
        for place, own in zip(self._type.scales, scales, strict=True):
            blocks[:, place : place + 2] = own.to(torch.float16)[:, None].contiguous().view(torch.uint8)
        return Ggml(blocks.view(self._packed.data.shape), self._packed.shape, self._packed.type)

    @property
    def scale(self) -> Tensor:
        """The scales (scales of a block, blocks, 1) as they are stored, in fp32, differentiable."""
        moved = self._scales * self.floats
        return _Rounded.apply(moved, torch.float16, torch.float32)  # type: ignore[no-any-return, no-untyped-call]

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The sum of the scales times what they are multiplied with, computed in fp32 and cast to `dtype`."""
        return (self.scale * self._units).sum(0).view(self._packed.shape).to(dtype)

    def confine(self) -> None:
        """No scale turns over."""
        self.floats.data.clamp_(min=LEAST_STRETCH)

    def packed(self) -> Ggml:
        """The same codes with the scales of now."""
        return self._with(self.scale.detach()[..., 0])


def _scales_of(data: Tensor, kind: GgmlType) -> Tensor:
    """The fp16 numbers (scales of a block, blocks, 1) in the bytes of a matrix, in fp32."""
    blocks = data.view(-1, kind.bytes)
    found = [blocks[:, place : place + 2].contiguous().view(torch.float16) for place in kind.scales]
    return torch.stack(found).float()


class _OnGrid(torch.autograd.Function):
    """Places, scales, zeros -> values; the gradient of a place is that of its value times the scale."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, scale: Tensor, zero: Tensor, top: int, dtype: torch.dtype) -> Tensor:
        signed = places.round().clamp_(0, top).sub_(zero)
        ctx.save_for_backward(signed if ctx.needs_input_grad[1] else None, scale)
        return (signed * scale).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        signed, scale = ctx.saved_tensors
        gradient = gradient.float()
        of_scale = signed.mul_(gradient).sum(-1, keepdim=True) if ctx.needs_input_grad[1] else None
        return gradient * scale if ctx.needs_input_grad[0] else None, of_scale, None, None, None


class _StoredScale(torch.autograd.Function):
    """A scale as `grid.fit` would store it; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, symmetric: bool) -> Tensor:
        stored = scale.clamp(MIN_SCALE, MAX_SHORT if symmetric else MAX_SCALE).to(torch.float16)
        return (stored.to(torch.bfloat16) if symmetric else stored).to(scale.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Rounded(torch.autograd.Function):
    """A tensor rounded to one dtype and cast to another; the gradient passes, in the tensor's own dtype."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, stored: torch.dtype, dtype: torch.dtype) -> Tensor:
        most = torch.finfo(stored).max
        return values.clamp(-most, most).to(stored).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.float(), None, None
