"""Stacked SparseGPT against a slow float64 loop per layer, per level and per column, and its behaviour at the edges."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evopress.errors import BadWeights, ConfigError, DataError
from evopress.levels import Compressed, Inputs, Pattern, Sparse, Sparsity, prune_magnitude, prune_sparsegpt, prune_wanda
from evopress.levels import sparsegpt as sparsegpt_module
from evopress.levels.stacking import MAX_STACK

COLUMNS, ROWS = 48, (6, 2, 5)
PATTERNS = [Pattern(1, 2), Pattern(2, 4), Pattern(3, 4), Pattern(1, 3), Pattern(5, 8), Pattern(7, 48)]


def problem(dtype: torch.dtype = torch.float64, dead: tuple[int, ...] = ()) -> tuple[list[Tensor], Tensor]:
    """Three layers and the Hessian of correlated inputs they share."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64)
    x = torch.randn(90, COLUMNS, generator=generator, dtype=torch.float64) @ (mix + torch.eye(COLUMNS))
    x[:, list(dead)] = 0
    weights = [torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64).to(dtype) for rows in ROWS]
    return weights, (x.T @ x / len(x)).to(dtype)


def all_levels() -> list[list[Sparsity]]:
    """Numbers of zeros, few, many, none and all, and patterns, for each layer."""
    counts = [[0, 1, count // 3, count // 2 + 1, 4 * count // 5, count - 1, count] for count in (r * 48 for r in ROWS)]
    return [[*own[:3], *PATTERNS, *own[3:]] for own in counts]


def reference_mask(weight: Tensor, d: Tensor, start: int, stop: int, zeros: int) -> Tensor:
    """Which of the columns from `start` to `stop` are dropped: the lowest w^2 / d^2 of the whole block."""
    scores = (weight[:, start:stop] ** 2 / d[start:stop] ** 2).T.flatten()
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[scores.argsort(stable=True)[:zeros]] = True
    return mask.view(stop - start, len(weight)).T


def reference(
    weight: Tensor, hessian: Tensor, sparsity: Sparsity, damping: float, block: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights and mask of dropped weights of one layer at one level, as the paper has it."""
    weight, hessian, original = weight.double().clone(), hessian.double().clone(), weight.double()
    dead = hessian.diagonal() == 0
    weight[:, dead] = 0
    mean = hessian.diagonal()[~dead].mean()
    hessian += torch.diag(dead.double()) + damping * mean * torch.eye(COLUMNS)
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    dropped = torch.zeros_like(weight, dtype=torch.bool)
    for i in range(COLUMNS):
        if isinstance(sparsity, Pattern):
            if i % sparsity.group == 0:
                for row in range(len(weight)):
                    dropped[row : row + 1, i : i + sparsity.group] = reference_mask(
                        weight[row : row + 1], factor.diagonal(), i, i + sparsity.group, sparsity.group - sparsity.kept
                    )
        elif i % block == 0:
            stop = min(i + block, COLUMNS)
            zeros = sparsity * stop // COLUMNS - sparsity * i // COLUMNS
            dropped[:, i:stop] = reference_mask(weight, factor.diagonal(), i, stop, zeros)
        stored = torch.where(dropped[:, i], 0, weight[:, i]).to(dtype).double()
        weight[:, i + 1 :] -= torch.outer((weight[:, i] - stored) / factor[i, i], factor[i, i + 1 :])
        weight[:, i] = stored
    return torch.where(dead & ~dropped, original.to(dtype).double(), weight), dropped


def output_error(weight: Tensor, values: Tensor, hessian: Tensor) -> float:
    """||(W-Wc)X||^2 / ||WX||^2 by definition."""
    weight, hessian = weight.double(), hessian.double()
    difference = weight - values.double()
    return float(torch.trace(difference @ hessian @ difference.T) / torch.trace(weight @ hessian @ weight.T))


@pytest.mark.parametrize("block", [1, 20, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dead", [(), (0, 17, 47)])
def test_equals_the_slow_reference(dead: tuple[int, ...], dtype: torch.dtype, block: int) -> None:
    weights, hessian = problem(dead=dead)
    levels = all_levels()
    answer = prune_sparsegpt(weights, Inputs(hessian), levels, damping=0.02, block=block, dtype=dtype)
    for weight, own, results in zip(weights, levels, answer, strict=True):
        for sparsity, level in zip(own, results, strict=True):
            values, dropped = reference(weight, hessian, sparsity, 0.02, block, dtype)
            assert torch.equal(level.tensor.unpacked_mask() == 0, dropped), sparsity
            torch.testing.assert_close(level.tensor.dequantize(torch.float64), values, rtol=1e-5, atol=1e-6)
            error = output_error(weight, level.tensor.dequantize(torch.float64), hessian)
            assert level.error == pytest.approx(error, rel=1e-6, abs=1e-12)
            assert level.damping == 0.02
            assert level.tensor.values.dtype == dtype


def test_fp32_differs_from_the_reference_by_rare_ties_only() -> None:
    weights, hessian = problem(torch.float32)
    levels = all_levels()
    answer = prune_sparsegpt(weights, Inputs(hessian), levels, block=16)
    for weight, own, results in zip(weights, levels, answer, strict=True):
        for sparsity, level in zip(own, results, strict=True):
            values, dropped = reference(weight, hessian, sparsity, 0.01, 16, torch.bfloat16)
            assert float(((level.tensor.unpacked_mask() == 0) != dropped).double().mean()) < 0.02
            assert level.error == pytest.approx(output_error(weight, level.tensor.dequantize(), hessian), rel=1e-3)
            assert level.error == pytest.approx(output_error(weight, values, hessian), rel=0.05)


def same(left: Compressed[Sparse], right: Compressed[Sparse]) -> bool:
    """Whether two answers are equal to the bit."""
    tensors = right.tensor.tensors()
    return left.error == right.error and all(torch.equal(t, tensors[name]) for name, t in left.tensor.tensors().items())


def test_the_same_input_gives_the_same_bytes_and_is_left_alone() -> None:
    weights, hessian = problem(torch.float32, dead=(5,))
    before = [tensor.clone() for tensor in (*weights, hessian)]
    first = prune_sparsegpt(weights, Inputs(hessian), all_levels())
    again = prune_sparsegpt(weights, Inputs(hessian), all_levels())
    assert all(same(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, hessian), strict=True))


def assert_close(left: Compressed[Sparse], right: Compressed[Sparse]) -> None:
    """Equal masks, and weights that differ by the rounding of sums in another order."""
    assert torch.equal(left.tensor.mask, right.tensor.mask)
    torch.testing.assert_close(left.tensor.values, right.tensor.values, rtol=1e-6, atol=1e-7)
    assert left.error == pytest.approx(right.error, rel=1e-6, abs=1e-12)


def test_stacked_equals_one_at_a_time() -> None:
    weights, hessian = problem()
    levels = all_levels()
    stacked = prune_sparsegpt(weights, Inputs(hessian), levels, block=20, dtype=torch.float32)
    for weight, own, results in zip(weights, levels, stacked, strict=True):
        for sparsity, level in zip(own, results, strict=True):
            [[alone]] = prune_sparsegpt([weight], Inputs(hessian), [[sparsity]], block=20, dtype=torch.float32)
            assert_close(level, alone)


@pytest.mark.parametrize(("stack", "sweeps"), [(1, 39), (COLUMNS * sum(ROWS), 15), (COLUMNS * 13 * sum(ROWS), 1)])
def test_slices_keep_the_stack_small_and_change_nothing(
    stack: int, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, hessian = problem()
    whole = prune_sparsegpt(weights, Inputs(hessian), all_levels(), dtype=torch.float32)
    sizes: list[int] = []

    def sweep(stacked: Tensor, *rest: Any, **options: Any) -> Tensor:
        sizes.append(stacked.numel())
        return one_sweep(stacked, *rest, **options)

    one_sweep = sparsegpt_module.sweep
    monkeypatch.setattr(sparsegpt_module, "sweep", sweep)
    monkeypatch.setitem(MAX_STACK, "cpu", stack)
    sliced = prune_sparsegpt(weights, Inputs(hessian), all_levels(), dtype=torch.float32)
    assert len(sizes) == sweeps
    assert max(sizes) <= max(stack, COLUMNS * max(ROWS))
    for one, two in zip(whole, sliced, strict=True):
        for a, b in zip(one, two, strict=True):
            assert_close(a, b)


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 20),
    block=st.integers(1, 24),
    distinct=st.integers(1, 4),
    dead=st.booleans(),
    data=st.data(),
)
def test_zeros_are_exactly_as_many_as_asked(
    rows: int, columns: int, block: int, distinct: int, dead: bool, data: st.DataObject
) -> None:
    weight = (torch.arange(rows * columns) % distinct).float().view(rows, columns)  # full of ties
    hessian = torch.eye(columns)
    hessian[0, 0] = 0 if dead else 1
    zeros = data.draw(st.lists(st.integers(0, rows * columns), min_size=1, max_size=4))
    [answer] = prune_sparsegpt([weight], Inputs(hessian), [[*zeros, 0, rows * columns]], block=block)
    for count, level in zip([*zeros, 0, rows * columns], answer, strict=True):
        assert level.tensor.zeros == int((level.tensor.unpacked_mask() == 0).sum()) == count
        assert not level.tensor.dequantize()[level.tensor.unpacked_mask() == 0].any()


@given(rows=st.integers(1, 4), groups=st.integers(1, 4), group=st.integers(1, 9), data=st.data())
def test_patterns_keep_exactly_n_of_each_m(rows: int, groups: int, group: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, group))
    weight = (torch.arange(rows * groups * group) % 3).float().view(rows, -1)
    [[level]] = prune_sparsegpt([weight], Inputs(torch.eye(groups * group)), [[Pattern(kept, group)]], block=5)
    assert (level.tensor.unpacked_mask().view(rows, groups, group).sum(2) == kept).all()
    assert level.tensor.zeros == Pattern(kept, group).zeros((rows, groups * group))


def test_zeros_are_spread_over_the_blocks_by_their_width() -> None:
    weights, hessian = problem()
    [[level], *_] = prune_sparsegpt(weights, Inputs(hessian), [[100], [], []], block=20)
    counts = [int((part == 0).sum()) for part in level.tensor.unpacked_mask().split(20, dim=1)]
    assert counts == [41, 42, 17]


def test_no_zeros_leave_the_weights_and_all_zeros_leave_nothing() -> None:
    weights, hessian = problem(torch.bfloat16, dead=(3,))
    answer = prune_sparsegpt(weights, Inputs(hessian.float()), [[0, weight.numel()] for weight in weights])
    for weight, (full, empty) in zip(weights, answer, strict=True):
        assert torch.equal(full.tensor.dequantize(torch.bfloat16), weight)
        assert full.error == 0
        assert not empty.tensor.dequantize().any()
        assert empty.error == pytest.approx(1, rel=1e-4)


def test_weights_of_dead_columns_go_first_and_stay_as_they_are() -> None:
    weights, hessian = problem(torch.float32, dead=(3, 47))
    first = prune_sparsegpt(
        weights, Inputs(hessian), [[2 * len(weight), len(weight), Pattern(2, 4)] for weight in weights]
    )
    for weight, (both, one, pattern) in zip(weights, first, strict=True):
        assert not both.tensor.unpacked_mask()[:, [3, 47]].any()
        # Nothing else is dropped, so what is lost is the rounding to 16 bits.
        assert both.error < 1e-5
        assert not pattern.tensor.unpacked_mask()[:, [3, 47]].any()
        kept = one.tensor.unpacked_mask()[:, [3, 47]] == 1
        assert int(kept.sum()) == len(weight)
        values = one.tensor.dequantize(torch.bfloat16)[:, [3, 47]]
        assert torch.equal(values[kept], weight[:, [3, 47]][kept].bfloat16())


def test_an_input_that_is_always_zero_costs_nothing() -> None:
    weights, hessian = problem(torch.float32)
    made = prune_sparsegpt(weights, Inputs(torch.zeros_like(hessian)), [[40]] * 3)
    for weight, [level] in zip(weights, made, strict=True):
        assert level.error == 0
        assert level.tensor.zeros == 40
        kept = level.tensor.unpacked_mask() == 1
        assert torch.equal(level.tensor.dequantize()[kept], weight[kept].bfloat16().float())


def test_uncorrelated_inputs_make_it_drop_the_smallest() -> None:
    weights, _ = problem(torch.float32)
    levels = [[weight.numel() // 2, Pattern(2, 4)] for weight in weights]
    ours = prune_sparsegpt(weights, Inputs(3 * torch.eye(COLUMNS)), levels)
    for own, others in zip(ours, prune_magnitude(weights, levels), strict=True):
        for a, b in zip(own, others, strict=True):
            assert torch.equal(a.tensor.dequantize(), b.tensor.dequantize())
            assert a.error == pytest.approx(b.error, rel=1e-4)


def test_better_than_pruning_without_repair_on_correlated_inputs() -> None:
    weights, _ = problem(torch.float32)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 12, generator=generator) @ torch.randn(12, COLUMNS, generator=generator)
    x += 0.3 * torch.randn(400, COLUMNS, generator=generator)
    hessian = x.T @ x / len(x)
    levels = [[weight.numel() // 2, 3 * weight.numel() // 4, Pattern(2, 4)] for weight in weights]
    ours = prune_sparsegpt(weights, Inputs(hessian), levels, block=8)
    for others in (prune_wanda(weights, hessian, levels), prune_magnitude(weights, levels, hessian=hessian)):
        for own, theirs in zip(ours, others, strict=True):
            assert all(a.error < 0.7 * b.error for a, b in zip(own, theirs, strict=True))


def test_damping_that_had_to_grow_is_reported() -> None:
    weights, hessian = problem(torch.float32)
    indefinite = hessian - 0.05 * hessian.diagonal().mean() * torch.eye(COLUMNS)
    [[level], *_] = prune_sparsegpt(weights, Inputs(indefinite), [[10], [10], [10]])
    assert level.damping == pytest.approx(0.1)


def test_mistakes_are_named() -> None:
    weights, hessian = problem(torch.float32)
    levels = [[1], [1], [1]]
    with pytest.raises(ConfigError, match="block is 0"):
        prune_sparsegpt(weights, Inputs(hessian), levels, block=0)
    with pytest.raises(ConfigError, match="levels are given for 2 weights, must be for all 3"):
        prune_sparsegpt(weights, Inputs(hessian), levels[1:])
    with pytest.raises(ConfigError, match=r"97 zeros do not fit a weight of shape \(2, 48\), must be 0 to 96"):
        prune_sparsegpt(weights, Inputs(hessian), [[1], [97], [1]])
    with pytest.raises(ConfigError, match="pattern 2:5 does not fit 48 columns, 5 must divide them"):
        prune_sparsegpt(weights, Inputs(hessian), [[1], [1], [Pattern(2, 5)]])
    with pytest.raises(ConfigError, match="Hessian has shape"):
        prune_sparsegpt(weights, Inputs(hessian[1:]), levels)
    with pytest.raises(ConfigError, match=r"cannot be stored as torch\.int8"):
        prune_sparsegpt(weights, Inputs(hessian), levels, dtype=torch.int8)
    with pytest.raises(ConfigError, match=r"weights left the range of torch\.float16, must stay below 65504"):
        prune_sparsegpt([1e5 * weight for weight in weights], Inputs(hessian), levels, dtype=torch.float16)
    with pytest.raises(DataError, match="holds NaN or infinity"):
        prune_sparsegpt(weights, Inputs(hessian * torch.inf), levels)
    weights[1][0, 0] = torch.nan
    with pytest.raises(BadWeights, match="weight 1 of 3"):
        prune_sparsegpt(weights, Inputs(hessian), levels)
