"""Refinement against a slow float64 descent, code by code and scale by scale, and that it never loses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evopress.levels import Grid, Inputs, quantize_gptq
from evopress.levels.gptq import GridRounder
from evopress.levels.grid import storable
from evopress.levels.hessian import make_feedback
from evopress.levels.refine import refine
from evopress.levels.sweep import sweep

COLUMNS = 21
GRIDS = [Grid(2, 8), Grid(3, None), Grid(3, 7, symmetric=True), Grid(4, 1)]
RIDGE = 0.05


def problem(seed: int = 0, rows: int = 6, dead: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """A weight (rows, columns) and the Hessian of correlated inputs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64)
    x = torch.randn(60, COLUMNS, generator=generator, dtype=torch.float64) @ mix
    x[:, list(dead)] = 0
    return torch.randn(rows, COLUMNS, generator=generator, dtype=torch.float64), x.T @ x / len(x)


def swept(weight: Tensor, hessian: Tensor) -> tuple[Tensor, GridRounder]:
    """Signed codes (columns, stacked rows) of a plain sweep, and their tables."""
    weights = weight.T.contiguous()
    rounder = GridRounder(weights, GRIDS, None, None)
    signed = weights.repeat(1, len(GRIDS))
    sweep(signed, make_feedback(hessian, damping=0.01, dtype=torch.float64), rounder, block=8)
    return signed, rounder


def slow(weight: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, grid: Grid, damped: Tensor, rounds: int) -> float:
    """Refine one row (columns,) by definition: the damped error is computed anew for every change."""
    spans = grid.spans(COLUMNS)

    def error() -> float:
        values = torch.cat([codes[span] * scale[group] for group, span in enumerate(spans)])
        return float((weight - values) @ damped @ (weight - values))

    for _ in range(rounds):
        for group, span in enumerate(spans):
            before, old = error(), scale[group].clone()
            rest = weight - torch.cat([codes[s] * scale[g] * (g != group) for g, s in enumerate(spans)])
            curvature = codes[span] @ damped[span, span] @ codes[span]
            if float(curvature) > 0:
                scale[group] = storable(codes[span] @ damped[span] @ rest / curvature, grid)
                if error() >= before:
                    scale[group] = old
        for column in range(COLUMNS):
            group = column // grid.width(COLUMNS)
            values = torch.cat([codes[span] * scale[g] for g, span in enumerate(spans)])
            step = damped[column] @ (weight - values) / damped[column, column]
            wanted = torch.round(codes[column] + step / scale[group])
            codes[column] = wanted.clamp(-zero[group], grid.top - zero[group])
    return error()


@pytest.mark.parametrize("rounds", [1, 3])
def test_equals_the_slow_descent(rounds: int) -> None:
    weight, hessian = problem()
    damped = hessian + RIDGE * torch.eye(COLUMNS, dtype=torch.float64)
    signed, rounder = swept(weight, hessian)
    parts = rounder.tables.parts
    start = [(signed[:, part.rows].clone(), part.scale.clone(), part.zero.clone()) for part in parts]
    errors = refine(weight.T, signed, rounder.tables, hessian, ridge=RIDGE, rounds=rounds, block=5)
    for part, (codes, scale, zero) in zip(parts, start, strict=True):
        for row in range(len(weight)):
            expected = slow(weight[row], codes[:, row], scale[:, row], zero[:, row], part.grid, damped, rounds)
            assert torch.equal(signed[:, part.rows][:, row], codes[:, row]), part.grid
            assert torch.equal(part.scale[:, row], scale[:, row]), part.grid
            assert float(errors[part.rows][row]) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([(), (0,), (3, 20)]))
def test_more_rounds_never_lose(seed: int, rounds: int, dead: tuple[int, ...]) -> None:
    weight, hessian = problem(seed, rows=3, dead=dead)
    weight[:, list(dead)] = 0
    errors = []
    for count in (0, rounds):
        signed, rounder = swept(weight, hessian)
        errors.append(refine(weight.T, signed, rounder.tables, hessian, ridge=RIDGE, rounds=count, block=128))
        for part in rounder.tables.parts:
            codes = signed[:, part.rows] + part.zero.repeat_interleave(part.width, 0)[:COLUMNS]
            assert bool(((codes >= 0) & (codes <= part.grid.top) & (codes == codes.round())).all())
            assert torch.equal(part.scale, storable(part.scale, part.grid))
    assert bool((errors[1] <= errors[0] * (1 + 1e-9) + 1e-15).all())


def test_a_level_says_the_error_of_what_it_holds() -> None:
    weight, hessian = problem(rows=9)
    weight = weight.float()
    [levels] = quantize_gptq([weight], Inputs(hessian.float()), GRIDS, act_order=True, search=True, rounds=2)
    [plain] = quantize_gptq([weight], Inputs(hessian.float()), GRIDS, act_order=True, search=True)
    for level, before in zip(levels, plain, strict=True):
        moved = weight.double() - level.tensor.dequantize(torch.float64)
        whole = torch.trace(weight.double() @ hessian @ weight.double().T)
        assert level.error == pytest.approx(float(torch.trace(moved @ hessian @ moved.T) / whole), rel=1e-4)
        assert level.error < before.error * 1.02  # what falls is the damped error
        assert level.tensor.storage_bits == before.tensor.storage_bits


def test_dead_columns_and_tiny_weights() -> None:
    weight, hessian = problem(dead=(0, 9))
    for factor in (1e-9, 1e6):
        for columns in (COLUMNS, 1):
            some = (weight[:, :columns] * factor).float()
            own = hessian[:columns, :columns].float()
            grids = [Grid(3), Grid(2, 1, symmetric=True)]
            [levels] = quantize_gptq([some], Inputs(own), grids, act_order=True, search=True, rounds=2)
            for level in levels:
                values = level.tensor.dequantize()
                assert bool(values.isfinite().all())
                assert not values[:, 0].any()
