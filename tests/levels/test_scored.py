"""Wanda and magnitude pruning against loops over single weights, and what both have in common."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evopress.errors import BadWeights, ConfigError, DataError
from evopress.levels import Compressed, Pattern, Sparse, Sparsity, prune_magnitude, prune_wanda

COLUMNS, ROWS = 24, (6, 1, 5)
PATTERNS = [Pattern(0, 2), Pattern(2, 4), Pattern(1, 3), Pattern(5, 8), Pattern(24, 24)]


def problem(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Three layers and the Hessian of inputs of very different size; column 7 is dead."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(90, COLUMNS, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 4, COLUMNS)
    x[:, 7] = 0
    weights = [torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64).to(dtype) for rows in ROWS]
    return weights, (x.T @ x / len(x)).to(dtype)


def all_levels() -> list[list[Sparsity]]:
    """Numbers of zeros and patterns for each layer."""
    return [[0, 1, *PATTERNS, rows * 11 + rows // 2, rows * COLUMNS] for rows in ROWS]


def drop_lowest(scores: list[tuple[float, int]], zeros: int) -> set[int]:
    """The places of the lowest scores, the first of equal ones."""
    return {place for _, place in sorted(scores)[:zeros]}


def reference_mask(weight: Tensor, norms: Tensor, sparsity: Sparsity, by_rows: bool) -> Tensor:
    """The mask of kept weights, one weight at a time."""
    rows, columns = weight.shape
    scores = [
        (abs(float(weight[i, j])) * float(norms[j]), i * columns + j) for i in range(rows) for j in range(columns)
    ]
    if isinstance(sparsity, Pattern):
        size, counts = sparsity.group, [sparsity.group - sparsity.kept] * (rows * columns // sparsity.group)
    elif by_rows:
        size, counts = columns, [sparsity * (i + 1) // rows - sparsity * i // rows for i in range(rows)]
    else:
        size, counts = rows * columns, [sparsity]
    dropped = [drop_lowest(scores[k * size : (k + 1) * size], count) for k, count in enumerate(counts)]
    mask = torch.ones(rows * columns, dtype=torch.uint8)
    mask[sorted(set().union(*dropped))] = 0
    return mask.view(rows, columns)


def check(
    weights: Sequence[Tensor], hessian: Tensor, norms: Tensor, answer: list[list[Compressed[Sparse]]], by_rows: bool
) -> None:
    """Masks, weights and errors are those of the definition."""
    for weight, own, results in zip(weights, all_levels(), answer, strict=True):
        energy = torch.trace(weight @ hessian @ weight.T)
        for sparsity, level in zip(own, results, strict=True):
            mask = reference_mask(weight, norms, sparsity, by_rows)
            assert torch.equal(level.tensor.unpacked_mask(), mask), sparsity
            values = (weight * mask).bfloat16().to(weight)
            assert torch.equal(level.tensor.dequantize(weight.dtype), values)
            error = torch.trace((weight - values) @ hessian @ (weight - values).T) / energy
            assert level.error == pytest.approx(float(error))
            assert level.damping == 0


def test_wanda_drops_the_lowest_weight_times_input_norm_of_each_row() -> None:
    weights, hessian = problem()
    answer = prune_wanda(weights, hessian, all_levels())
    check(weights, hessian, hessian.diagonal().sqrt(), answer, by_rows=True)


def test_magnitude_drops_the_smallest_of_the_whole_matrix() -> None:
    weights, hessian = problem()
    answer = prune_magnitude(weights, all_levels(), hessian=hessian)
    check(weights, hessian, torch.ones(COLUMNS), answer, by_rows=False)


def test_without_a_hessian_errors_are_those_of_uncorrelated_inputs() -> None:
    weights, _ = problem()
    eye = torch.eye(COLUMNS, dtype=torch.float64)
    check(weights, eye, torch.ones(COLUMNS), prune_magnitude(weights, all_levels()), by_rows=False)


def test_wanda_on_equal_inputs_is_magnitude_within_rows() -> None:
    weights, _ = problem(torch.float32)
    rows = [weight[i : i + 1] for weight in weights for i in range(len(weight))]
    wanda = prune_wanda(weights, torch.eye(COLUMNS), [[13 * len(weight)] for weight in weights])
    single = prune_magnitude(rows, [[13] for _ in rows])
    together = torch.cat([level.tensor.dequantize() for [level] in wanda])
    assert torch.equal(together, torch.cat([level.tensor.dequantize() for [level] in single]))


def test_wanda_drops_dead_columns_first() -> None:
    weights, hessian = problem(torch.float32)
    for weight, [level] in zip(
        weights, prune_wanda(weights, hessian, [[len(weight)] for weight in weights]), strict=True
    ):
        assert not level.tensor.unpacked_mask()[:, 7].any()
        assert level.tensor.zeros == len(weight)


@given(rows=st.integers(1, 6), columns=st.integers(1, 20), distinct=st.integers(1, 4), data=st.data())
def test_zeros_are_exactly_as_many_as_asked(rows: int, columns: int, distinct: int, data: st.DataObject) -> None:
    weight = (torch.arange(rows * columns) % distinct).float().view(rows, columns)  # full of ties
    zeros = [*data.draw(st.lists(st.integers(0, rows * columns), max_size=4)), 0, rows * columns]
    [wanda], [magnitude] = prune_wanda([weight], torch.eye(columns), [zeros]), prune_magnitude([weight], [zeros])
    for count, one, two in zip(zeros, wanda, magnitude, strict=True):
        assert one.tensor.zeros == two.tensor.zeros == count
        in_rows = (one.tensor.unpacked_mask() == 0).sum(1)
        assert int(in_rows.max() - in_rows.min()) <= 1


def test_the_same_input_gives_the_same_bytes_and_is_left_alone() -> None:
    weights, hessian = problem(torch.float32)
    before = [tensor.clone() for tensor in (*weights, hessian)]
    for prune in (
        lambda: prune_wanda(weights, hessian, all_levels()),
        lambda: prune_magnitude(weights, all_levels(), hessian=hessian),
    ):
        for one, two in zip(prune(), prune(), strict=True):
            for a, b in zip(one, two, strict=True):
                assert a.error == b.error
                assert torch.equal(a.tensor.mask, b.tensor.mask)
                assert torch.equal(a.tensor.values, b.tensor.values)
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, hessian), strict=True))


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_mistakes_are_named(method: str) -> None:
    weights, hessian = problem(torch.float32)

    def prune(
        weights: list[Tensor], hessian: Tensor, levels: list[list[Sparsity]], dtype: torch.dtype | None = None
    ) -> object:
        if method == "wanda":
            return prune_wanda(weights, hessian, levels, dtype=dtype)
        return prune_magnitude(weights, levels, hessian=hessian, dtype=dtype)

    with pytest.raises(ConfigError, match="levels are given for 1 weights, must be for all 3"):
        prune(weights, hessian, [[1]])
    with pytest.raises(ConfigError, match=r"-1 zeros do not fit a weight of shape \(6, 24\), must be 0 to 144"):
        prune(weights, hessian, [[-1], [1], [1]])
    with pytest.raises(ConfigError, match="pattern 2:5 does not fit 24 columns"):
        prune(weights, hessian, [[1], [Pattern(2, 5)], [1]])
    with pytest.raises(ConfigError, match="Hessian has shape"):
        prune(weights, hessian[1:], [[1]] * 3)
    with pytest.raises(ConfigError, match=r"cannot be stored as torch\.float64"):
        prune(weights, hessian, [[1]] * 3, torch.float64)
    with pytest.raises(ConfigError, match=r"too large for torch\.float16"):
        prune([1e6 * weight for weight in weights], hessian, [[1]] * 3, torch.float16)
    with pytest.raises(DataError, match="holds NaN or infinity"):
        prune(weights, hessian * torch.inf, [[1]] * 3)
    with pytest.raises(ConfigError, match="equal columns"):
        prune([weights[0], weights[1][:, 1:]], hessian, [[1]] * 2)
    weights[1][0, 0] = torch.nan
    with pytest.raises(BadWeights, match="weight 1 of 3"):
        prune(weights, hessian, [[1]] * 3)
