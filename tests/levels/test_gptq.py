"""Stacked GPTQ against a slow float64 loop per layer, per level and per column, and its behaviour at the edges."""

import pytest
import torch
from torch import Tensor

from evopress.errors import BadWeights, ConfigError, DataError
from evopress.levels import Compressed, Grid, Inputs, Quantized, quantize_gptq, quantize_rtn
from evopress.levels.stacking import MAX_STACK

COLUMNS = 49
GRIDS = [
    Grid(1, 7),
    Grid(2, 16),
    Grid(3, None),
    Grid(3, 24, symmetric=True),
    Grid(4, 1),
    Grid(5, 48),
    Grid(6, 10),
    Grid(8, 49, symmetric=True),
]


def problem(dtype: torch.dtype = torch.float64, dead: tuple[int, ...] = ()) -> tuple[list[Tensor], Tensor]:
    """Three layers and the Hessian of correlated inputs they share."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64)
    x = torch.randn(90, COLUMNS, generator=generator, dtype=torch.float64) @ (mix + torch.eye(COLUMNS))
    x[:, list(dead)] = 0
    weights = [torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64).to(dtype) for rows in (6, 2, 5)]
    return weights, (x.T @ x / len(x)).to(dtype)


def reference_scales(group: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero of a group (rows, width)."""
    low, high = group.min(1).values.clamp(max=0), group.max(1).values.clamp(min=0)
    if grid.symmetric:
        scale = (2 * torch.maximum(-low, high) / grid.top).clamp(min=2.0**-24)
        return scale.half().bfloat16().double(), torch.full_like(scale, (grid.top + 1) // 2)
    scale = ((high - low) / grid.top).clamp(min=2.0**-24).half().double()
    return scale, torch.round(-low / scale).clamp(0, grid.top)


def reference(weight: Tensor, hessian: Tensor, grid: Grid, damping: float, act_order: bool) -> tuple[Tensor, Tensor]:
    """Values and codes of one layer at one level, with the remaining Hessian inverted anew for each column."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    dead = hessian.diagonal() == 0
    weight[:, dead] = 0
    mean = hessian.diagonal()[~dead].mean()
    hessian += torch.diag(dead.double()) + damping * mean * torch.eye(COLUMNS)
    order = (hessian - torch.diag(dead.double())).diagonal().argsort(descending=True, stable=True).tolist()
    order = order if act_order else list(range(COLUMNS))
    original = weight.clone()
    codes, values = torch.zeros_like(weight), torch.zeros_like(weight)
    for i, column in enumerate(order):
        start = column // grid.width(COLUMNS) * grid.width(COLUMNS)
        if act_order or column == start:
            source = original if act_order else weight
            scale, zero = reference_scales(source[:, start : start + grid.width(COLUMNS)], grid)
        codes[:, column] = torch.clamp(torch.round(weight[:, column] / scale) + zero, 0, grid.top)
        values[:, column] = (codes[:, column] - zero) * scale
        rest = order[i:]
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        error = weight[:, column] - values[:, column]
        weight[:, rest] -= torch.outer(error, inverse[0] / inverse[0, 0])
    return values, codes


def output_error(weight: Tensor, values: Tensor, hessian: Tensor) -> float:
    """||(W-Wq)X||^2 / ||WX||^2 by definition."""
    weight, hessian = weight.double(), hessian.double()
    difference = weight - values.double()
    return float(torch.trace(difference @ hessian @ difference.T) / torch.trace(weight @ hessian @ weight.T))


@pytest.mark.parametrize("dead", [(), (0, 17, 48)])
@pytest.mark.parametrize("act_order", [False, True])
def test_equals_the_slow_reference(act_order: bool, dead: tuple[int, ...]) -> None:
    weights, hessian = problem(dead=dead)
    answers = {
        block: quantize_gptq(weights, Inputs(hessian), GRIDS, damping=0.02, block=block, act_order=act_order)
        for block in (1, 20, 128)
    }
    for w, weight in enumerate(weights):
        for g, grid in enumerate(GRIDS):
            values, codes = reference(weight, hessian, grid, 0.02, act_order)
            error = output_error(weight, values, hessian)
            for block, answer in answers.items():
                level = answer[w][g]
                assert torch.equal(level.tensor.unpacked_codes().double(), codes), (block, grid)
                torch.testing.assert_close(level.tensor.dequantize(torch.float64), values, rtol=1e-6, atol=0)
                assert level.error == pytest.approx(error, rel=1e-6)
                assert level.damping == 0.02


def test_fp32_differs_from_the_reference_by_rare_ties_only() -> None:
    weights, hessian = problem(torch.float32)
    results = quantize_gptq(weights, Inputs(hessian), GRIDS)
    for weight, levels in zip(weights, results, strict=True):
        for grid, level in zip(GRIDS, levels, strict=True):
            values, codes = reference(weight, hessian, grid, 0.01, act_order=False)
            assert float((level.tensor.unpacked_codes() != codes).double().mean()) < 0.1
            assert level.error == pytest.approx(output_error(weight, level.tensor.dequantize(), hessian), rel=1e-3)
            assert level.error == pytest.approx(output_error(weight, values, hessian), rel=0.05)


def same(left: list[list[Compressed[Quantized]]], right: list[list[Compressed[Quantized]]]) -> bool:
    """Whether two answers are equal to the bit."""
    pairs = [p for a, b in zip(left, right, strict=True) for p in zip(a, b, strict=True)]
    return all(
        a.error == b.error and all(torch.equal(t, b.tensor.tensors()[name]) for name, t in a.tensor.tensors().items())
        for a, b in pairs
    )


def test_the_same_input_gives_the_same_bytes_and_is_left_alone() -> None:
    weights, hessian = problem(torch.float32, dead=(5,))
    before = [tensor.clone() for tensor in (*weights, hessian)]
    first = quantize_gptq(weights, Inputs(hessian), GRIDS)
    assert same(first, quantize_gptq(weights, Inputs(hessian), GRIDS))
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, hessian), strict=True))


def test_slices_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, hessian = problem()
    whole = quantize_gptq(weights, Inputs(hessian), GRIDS)
    monkeypatch.setitem(MAX_STACK, "cpu", COLUMNS * len(GRIDS) * 4)
    sliced = quantize_gptq(weights, Inputs(hessian), GRIDS)
    for a, b in zip(whole, sliced, strict=True):
        for c, d in zip(a, b, strict=True):
            assert torch.equal(c.tensor.codes, d.tensor.codes)
            assert c.error == pytest.approx(d.error)


@pytest.mark.parametrize("act_order", [False, True])
def test_better_than_rounding_on_correlated_inputs(act_order: bool) -> None:
    weights, hessian = problem(torch.float32)
    grids = [Grid(2, 16), Grid(3, 16), Grid(4)]
    ours = quantize_gptq(weights, Inputs(hessian), grids, act_order=act_order)
    nearest = quantize_rtn(weights, grids, hessian=hessian)
    for a, b in zip(ours, nearest, strict=True):
        for gptq, rtn in zip(a, b, strict=True):
            assert gptq.error < 0.9 * rtn.error


def test_uncorrelated_inputs_make_it_round_to_nearest() -> None:
    weights, _ = problem(torch.float32)
    ours = quantize_gptq(weights, Inputs(3 * torch.eye(COLUMNS)), GRIDS)
    nearest = quantize_rtn(weights, GRIDS)
    for a, b in zip(ours, nearest, strict=True):
        for gptq, rtn in zip(a, b, strict=True):
            assert torch.equal(gptq.tensor.dequantize(), rtn.tensor.dequantize())
            assert gptq.error == pytest.approx(rtn.error, rel=1e-4)


@pytest.mark.parametrize("act_order", [False, True])
def test_weights_of_dead_columns_become_zero(act_order: bool) -> None:
    weights, hessian = problem(torch.float32, dead=(3, 48))
    for levels in quantize_gptq(weights, Inputs(hessian), GRIDS, act_order=act_order):
        for level in levels:
            assert not level.tensor.dequantize()[:, [3, 48]].any()


def test_an_input_that_is_always_zero_costs_nothing() -> None:
    weights, hessian = problem(torch.float32)
    for levels in quantize_gptq(weights, Inputs(torch.zeros_like(hessian)), GRIDS):
        for level in levels:
            assert not level.tensor.dequantize().any()
            assert level.error == 0


def test_damping_that_had_to_grow_is_reported() -> None:
    weights, hessian = problem(torch.float32)
    indefinite = hessian - 0.05 * hessian.diagonal().mean() * torch.eye(COLUMNS)
    [[level], _, _] = quantize_gptq(weights, Inputs(indefinite), [Grid(3)])
    assert level.damping == pytest.approx(0.1)


def test_whole_row_scales_are_those_of_the_original_rows() -> None:
    weights, hessian = problem(torch.float32)
    [[level], _, _] = quantize_gptq(weights, Inputs(hessian), [Grid(3)])
    spread = weights[0].amax(1).clamp(min=0) - weights[0].amin(1).clamp(max=0)
    torch.testing.assert_close(level.tensor.scale[:, 0], (spread / 7).half(), rtol=1e-3, atol=0)


def test_mistakes_are_named() -> None:
    weights, hessian = problem(torch.float32)
    with pytest.raises(ConfigError, match="block is 0"):
        quantize_gptq(weights, Inputs(hessian), GRIDS, block=0)
    with pytest.raises(ConfigError, match="group size is 50"):
        quantize_gptq(weights, Inputs(hessian), [Grid(3, 50)])
    with pytest.raises(ConfigError, match="Hessian has shape"):
        quantize_gptq(weights, Inputs(hessian[1:]), GRIDS)
    with pytest.raises(DataError, match="holds NaN or infinity"):
        quantize_gptq(weights, Inputs(hessian * torch.inf), GRIDS)
    weights[1][0, 0] = torch.nan
    with pytest.raises(BadWeights, match="weight 1 of 3"):
        quantize_gptq(weights, Inputs(hessian), GRIDS)
