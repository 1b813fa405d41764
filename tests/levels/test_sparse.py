"""Stored sparse matrices: values, sizes, and tensors that go to disk and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evopress.errors import ConfigError, DatabaseError
from evopress.levels import Sparse, sparse_storage_bits
from evopress.levels import sparse as sparse_module
from evopress.levels.sparse import DTYPES, stored_dtype


def make(density: float = 0.4, shape: tuple[int, int] = (5, 25), dtype: torch.dtype = torch.bfloat16) -> Sparse:
    """A random matrix, pruned at random."""
    return Sparse.from_dense(*random_matrix(density, shape), dtype)


def random_matrix(density: float, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights and a mask."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(shape, generator=generator)
    return weights, (torch.rand(shape, generator=generator) < density).to(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(5, 25), (1, 1), (8, 16), (3, 7)])
def test_dequantize_gives_the_kept_weights_and_zeros(
    shape: tuple[int, int], density: float, dtype: torch.dtype
) -> None:
    weights, kept = random_matrix(density, shape)
    matrix = Sparse.from_dense(weights, kept, dtype)
    expected = torch.where(kept == 1, weights.to(dtype), 0)
    for target in (torch.float32, torch.bfloat16, torch.float64):
        assert torch.equal(matrix.dequantize(target), expected.to(target))
    assert torch.equal(matrix.unpacked_mask(), kept)
    assert matrix.zeros == int((kept == 0).sum())


def test_pieces_of_any_length_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, kept = random_matrix(0.4, (30, 17))
    whole = Sparse.from_dense(weights, kept)
    monkeypatch.setattr(sparse_module, "CHUNK", 40)
    pieces = Sparse.from_dense(weights, kept)
    assert torch.equal(pieces.values, whole.values)
    assert torch.equal(pieces.dequantize(), torch.where(kept == 1, weights.bfloat16().float(), 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_views_are_stored_as_they_look(dtype: torch.dtype) -> None:
    weights, kept = random_matrix(0.4, (25, 5))
    matrix = Sparse.from_dense(weights.T, kept.T, dtype)
    assert torch.equal(matrix.dequantize(), Sparse.from_dense(weights.T.clone(), kept.T.clone(), dtype).dequantize())
    assert torch.equal(matrix.unpacked_mask(), kept.T)


def test_kept_weights_that_round_to_zero_are_no_zeros() -> None:
    weights = torch.tensor([[1e-30, 1.0, 0.0, 2.0]])
    matrix = Sparse.from_dense(weights, torch.tensor([[1, 1, 1, 0]], dtype=torch.uint8), torch.float16)
    assert matrix.zeros == 1
    assert matrix.dequantize().tolist() == [[0, 1, 0, 0]]


@given(rows=st.integers(1, 40), columns=st.integers(1, 60), density=st.floats(0, 1))
def test_storage_is_the_mask_and_the_kept_weights(rows: int, columns: int, density: float) -> None:
    matrix = make(density, (rows, columns))
    count = rows * columns
    assert matrix.storage_bits == sparse_storage_bits((rows, columns), matrix.zeros)
    assert matrix.storage_bits == count + 16 * (count - matrix.zeros)
    stored = 8 * sum(tensor.numel() * tensor.element_size() for tensor in matrix.tensors().values())
    assert matrix.storage_bits <= stored < matrix.storage_bits + 8


def test_stored_values_do_not_drag_a_larger_storage_along() -> None:
    matrix = make(0.4, (64, 128))
    assert sum(tensor.untyped_storage().nbytes() for tensor in matrix.tensors().values()) * 8 == matrix.storage_bits


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_go_out_and_come_back(dtype: torch.dtype) -> None:
    matrix = make(dtype=dtype)
    again = Sparse.from_tensors(matrix.tensors(), matrix.shape, matrix.zeros).to("cpu")
    assert torch.equal(again.dequantize(), matrix.dequantize())
    assert (again.zeros, again.shape, again.values.dtype) == (matrix.zeros, (5, 25), dtype)


def test_missing_or_misshapen_tensors_are_refused() -> None:
    matrix = make()
    with pytest.raises(DatabaseError, match="'values' is missing"):
        Sparse.from_tensors({"mask": matrix.mask}, matrix.shape, matrix.zeros)
    with pytest.raises(DatabaseError, match=r"'mask' is torch\.uint8 \(15,\), must be torch\.uint8 \(16,\)"):
        Sparse.from_tensors(matrix.tensors() | {"mask": matrix.mask[1:]}, matrix.shape, matrix.zeros)
    with pytest.raises(DatabaseError, match=r"'values' is torch\.float64"):
        Sparse.from_tensors(matrix.tensors() | {"values": matrix.values.double()}, matrix.shape, matrix.zeros)
    with pytest.raises(DatabaseError, match="'values' is"):
        Sparse.from_tensors(matrix.tensors(), matrix.shape, matrix.zeros + 1)


def test_the_stored_dtype_is_the_weights_own_if_it_has_16_bits() -> None:
    half, single, brain = (torch.zeros(1, dtype=d) for d in (torch.float16, torch.float32, torch.bfloat16))
    assert stored_dtype([half, half]) == torch.float16
    assert stored_dtype([brain]) == stored_dtype([single]) == stored_dtype([half, brain]) == torch.bfloat16
    assert stored_dtype([brain], torch.float32) == torch.float32
    with pytest.raises(ConfigError, match=r"cannot be stored as torch\.int8, must be one of torch\.bfloat16"):
        stored_dtype([brain], torch.int8)


def test_weights_too_large_for_the_stored_dtype_are_refused() -> None:
    weights, kept = torch.tensor([[1e5, 1.0]]), torch.ones(1, 2, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"too large for torch\.float16, must be at most 65504"):
        Sparse.from_dense(weights, kept, torch.float16)
    assert Sparse.from_dense(weights, 1 - kept, torch.float16).zeros == 2
