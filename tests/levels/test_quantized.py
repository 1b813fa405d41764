"""Stored matrices: values, sizes, and tensors that go to disk and back."""

import pytest
import torch
from torch import Tensor

from evopress.errors import DatabaseError
from evopress.levels import Grid, Quantized, storage_bits

GRIDS = [Grid(b, g, s) for b in range(1, 9) for g in (None, 8, 7, 12) for s in (False, True)]


def make(grid: Grid, rows: int = 5, columns: int = 25) -> tuple[Quantized, Tensor, Tensor, Tensor]:
    """A random matrix and the codes, scales and zeros it was made from."""
    generator = torch.Generator().manual_seed(grid.bits)
    codes = torch.randint(0, grid.top + 1, (rows, columns), generator=generator, dtype=torch.uint8)
    scale = torch.rand(rows, grid.groups(columns), generator=generator).half()
    zero = torch.randint(0, grid.top + 1, scale.shape, generator=generator, dtype=torch.uint8)
    if grid.symmetric:
        zero.fill_(2 ** (grid.bits - 1))
    return Quantized.from_codes(codes, scale, zero, grid), codes, scale, zero


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_dequantize_is_code_minus_zero_times_scale(grid: Grid) -> None:
    matrix, codes, scale, zero = make(grid)
    group = torch.arange(25) // grid.width(25)
    expected = (codes.float() - zero.float()[:, group]) * scale.float()[:, group]
    assert torch.equal(matrix.dequantize(), expected)
    assert torch.equal(matrix.dequantize(torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_storage_bits_are_the_bits_of_the_tensors(grid: Grid) -> None:
    matrix = make(grid)[0]
    zero_bits = 0 if grid.symmetric else matrix.scale.numel() * grid.bits
    assert (
        matrix.storage_bits == storage_bits((5, 25), grid) == matrix.code_bits + matrix.scale.numel() * 16 + zero_bits
    )
    rounded = -(-matrix.code_bits // 8) + matrix.scale.numel() * 2 + -(-zero_bits // 8)
    assert sum(tensor.nbytes for tensor in matrix.tensors().values()) == rounded


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_tensors_go_out_and_come_back(grid: Grid) -> None:
    matrix = make(grid)[0]
    again = Quantized.from_tensors(matrix.tensors(), matrix.shape, grid)
    assert torch.equal(again.dequantize(), matrix.dequantize())
    assert again.tensors().keys() == matrix.tensors().keys()


def test_missing_or_misshapen_tensors_are_refused() -> None:
    matrix = make(Grid(4, 8))[0]
    with pytest.raises(DatabaseError, match="'zero' is missing"):
        Quantized.from_tensors({"codes": matrix.codes, "scale": matrix.scale}, matrix.shape, matrix.grid)
    with pytest.raises(DatabaseError, match=r"'codes' is torch\.uint8"):
        Quantized.from_tensors(matrix.tensors() | {"codes": matrix.codes[1:]}, matrix.shape, matrix.grid)
    with pytest.raises(DatabaseError, match=r"'scale' is torch\.float32"):
        Quantized.from_tensors(matrix.tensors() | {"scale": matrix.scale.float()}, matrix.shape, matrix.grid)
