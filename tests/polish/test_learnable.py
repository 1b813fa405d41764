"""Learnable levels: iteration 0 is the level, gradients are those of a slow reference, and packing changes no byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.ggml_types import GGML_TYPES
from evopress.levels.ggml import Ggml, pack_ggml
from evopress.levels.grid import Grid
from evopress.levels.magnitude import prune_magnitude
from evopress.levels.packed import Packed
from evopress.levels.quantized import Quantized
from evopress.levels.rtn import quantize_rtn
from evopress.levels.sparse import Sparse
from evopress.polish.learnable import (
    Learnable,
    LearnableGgml,
    LearnableGrid,
    LearnableSparse,
    LearnableUpdate,
    learnable,
)

GRIDS = [Grid(3, 8), Grid(2, 5), Grid(4), Grid(3, 8, symmetric=True), Grid(1, 4), Grid(8, 16, symmetric=True)]


def draw(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


def quantized(dense: torch.Tensor, grid: Grid, seed: int = 0) -> Quantized:
    """A level whose codes are not all the nearest, as those of a sweep are not."""
    level = quantize_rtn([dense], [grid])[0][0].tensor
    moved = torch.randint(-1, 2, dense.shape, generator=torch.Generator().manual_seed(seed))
    codes = (level.unpacked_codes().int() + moved).clamp(0, grid.top).to(torch.uint8)
    return Quantized.from_codes(codes, level.scale, level.unpacked_zeros(), grid)


def same(one: Packed, other: Packed) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(
        mine[k].dtype == theirs[k].dtype and torch.equal(mine[k], theirs[k]) for k in mine
    )


@given(st.sampled_from(GRIDS), st.integers(1, 5), st.integers(16, 33), st.integers(0, 9))
def test_a_grid_starts_as_its_level_and_packs_into_the_same_bytes(grid: Grid, rows: int, columns: int, seed: int):
    dense = draw(rows, columns, seed)
    level = quantized(dense, grid, seed)
    form = learnable(level, dense)
    assert isinstance(form, LearnableGrid)
    assert torch.equal(form.weight(torch.float32), level.dequantize())
    assert torch.equal(form.weight(torch.bfloat16), level.dequantize(torch.bfloat16))
    assert same(form.packed(), level)
    generator = torch.Generator().manual_seed(seed)
    form.codes += torch.randn(form.codes.shape, generator=generator)
    form.floats += torch.randn(form.floats.shape, generator=generator)
    form.confine()
    learned = form.packed()
    assert (learned.shape, learned.grid, learned.storage_bits) == (level.shape, level.grid, level.storage_bits)
    assert {k: v.shape for k, v in learned.tensors().items()} == {k: v.shape for k, v in level.tensors().items()}
    assert torch.equal(form.weight(torch.float32), learned.dequantize())
    if grid.symmetric:
        assert torch.equal(learned.scale, learned.scale.to(torch.bfloat16).to(torch.float16))
    assert bool(learned.scale.isfinite().all())
    assert bool((learned.scale > 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sparse_values_move_under_a_fixed_mask(dtype: torch.dtype):
    level = prune_magnitude([draw(6, 20)], [[50]], dtype=dtype)[0][0].tensor
    form = learnable(level, draw(6, 20))
    assert isinstance(form, LearnableSparse)
    assert same(form.packed(), level)
    form.floats += draw(6, 20, seed=1)
    learned = form.packed()
    assert torch.equal(learned.mask, level.mask)
    assert not torch.equal(learned.values, level.values)
    assert (learned.values.dtype, learned.storage_bits) == (dtype, level.storage_bits)
    assert torch.equal(form.weight(torch.float32), learned.dequantize())


def test_what_has_nothing_to_learn_is_none():
    class Other:
        shape = (2, 2)

    assert learnable(Other(), torch.zeros(2, 2)) is None  # type: ignore[arg-type]


def test_gradients_are_those_of_a_slow_reference():
    """For each number: the chain rule by hand, roundings taken as the identity, in float64."""
    dense, grid = draw(3, 10), Grid(3, 4)
    level = quantized(dense, grid)
    form = learnable(level, dense)
    assert isinstance(form, LearnableGrid)
    upstream = draw(3, 10, seed=2)
    for numbers in (form.codes, form.floats):
        numbers.requires_grad_()
    (form.weight(torch.float32) * upstream).sum().backward()
    codes, zeros = level.unpacked_codes().double(), level.unpacked_zeros().double()
    places = torch.zeros(3, 3, 4, dtype=torch.float64)
    stretch = torch.zeros(3, 3, dtype=torch.float64)
    for row in range(3):
        for column in range(10):
            group, scale = column // 4, level.scale[row, column // 4].double()
            places[row, group, column % 4] = upstream[row, column] * scale
            stretch[row, group] += upstream[row, column] * (codes[row, column] - zeros[row, group]) * scale
    torch.testing.assert_close(form.codes.grad, places.float())
    torch.testing.assert_close(form.floats.grad[..., 0], stretch.float())


def test_gradients_of_sparse_values_are_those_of_a_slow_reference():
    level: Sparse = prune_magnitude([draw(3, 10)], [[14]], dtype=torch.float32)[0][0].tensor
    form: Learnable = LearnableSparse(level)
    upstream = draw(3, 10, seed=2)
    assert form.floats is not None
    form.floats.requires_grad_()
    (form.weight(torch.float32) * upstream).sum().backward()
    unit = float(level.dequantize().square().mean().sqrt())
    kept = level.unpacked_mask()
    expected = [[upstream[r, c].item() * unit if kept[r, c] else 0.0 for c in range(10)] for r in range(3)]
    torch.testing.assert_close(form.floats.grad, torch.tensor(expected))


@pytest.mark.parametrize("name", [name for name, kind in GGML_TYPES.items() if kind.scales])
def test_a_ggml_type_starts_as_its_level_and_learns_its_scales_alone(name: str) -> None:
    kind = GGML_TYPES[name]
    level = pack_ggml(draw(3, 512), name, torch.ones(512) if kind.needs_importance else None)
    form = learnable(level)
    assert isinstance(form, LearnableGgml)
    assert torch.equal(form.weight(torch.float32), level.dequantize())
    assert same(form.packed(), level)
    generator = torch.Generator().manual_seed(0)
    form.floats += torch.randn(form.floats.shape, generator=generator) * 0.2
    form.confine()
    learned = form.packed()
    assert torch.equal(form.weight(torch.float32), learned.dequantize())
    assert not torch.equal(learned.dequantize(), level.dequantize())
    places = {byte for scale in kind.scales for byte in (scale, scale + 1)}
    rest = [byte for byte in range(kind.bytes) if byte not in places]
    assert torch.equal(learned.data.view(-1, kind.bytes)[:, rest], level.data.view(-1, kind.bytes)[:, rest])


def test_the_gradient_of_a_ggml_scale_is_that_of_its_blocks_weights() -> None:
    level = pack_ggml(draw(2, 256), "Q4_K")
    form = learnable(level)
    assert form is not None
    form.floats.requires_grad_()
    toward = draw(2, 256, seed=1)
    (form.weight(torch.float32) * toward).sum().backward()
    for place in (0, 2):
        for row in range(2):
            blocks = level.data.clone()
            blocks[row, 2 - place : 4 - place] = 0
            part = Ggml(blocks, level.shape, level.type).dequantize()[row]
            assert form.floats.grad is not None
            torch.testing.assert_close(form.floats.grad[place // 2, row, 0], (part * toward[row]).sum())


@pytest.mark.parametrize("name", ["IQ1_M", "MXFP4", "F16"])
def test_a_ggml_type_without_scales_in_floating_point_learns_nothing(name: str) -> None:
    assert learnable(pack_ggml(draw(2, 256), name, torch.ones(256))) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_dense_weight_starts_as_it_is_and_changes_by_few_ranks(dtype: torch.dtype) -> None:
    dense = draw(64, 48).to(dtype)
    level = Sparse.from_dense(dense, torch.ones(64, 48, dtype=torch.uint8), dtype)
    form = learnable(level)
    assert isinstance(form, LearnableUpdate)
    assert torch.equal(form.weight(dtype), dense)
    assert same(form.packed(), level)
    assert torch.equal(form.floats, LearnableUpdate(level).floats)  # in every process
    form.floats += 0.1
    changed = form.packed()
    assert (changed.shape, changed.storage_bits) == (level.shape, level.storage_bits)
    assert torch.equal(form.weight(dtype), changed.dequantize(dtype))
    assert int(torch.linalg.matrix_rank((changed.dequantize() - dense.float()).double(), rtol=0.02)) <= 32


def test_the_gradient_of_an_update_is_that_of_its_factors() -> None:
    level = Sparse.from_dense(draw(5, 7), torch.ones(5, 7, dtype=torch.uint8), torch.float32)
    form = LearnableUpdate(level)
    form.floats += draw(5, 12, seed=2)
    form.floats.requires_grad_()
    toward = draw(5, 7, seed=1)
    (form.weight(torch.float32) * toward).sum().backward()
    unit = float(level.dequantize().square().mean().sqrt()) / 5**0.5
    left, right = form.floats.detach().double().split([5, 7], dim=1)
    expected = torch.cat([unit * right @ toward.double().T, unit * left @ toward.double()], dim=1)
    assert form.floats.grad is not None
    torch.testing.assert_close(form.floats.grad.double(), expected)
