"""The search for scales against a slow float64 search over codes and scales one by one, and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evopress.levels.grid import Grid, fit
from evopress.levels.scales import factors, search_scales, shifts

GRIDS = [Grid(1), Grid(2), Grid(3), Grid(3, symmetric=True), Grid(8, symmetric=True)]


def loss(weights: list[float], importance: list[float], scale: float, zero: float, top: int) -> float:
    """The weighted squared error of one row's group."""
    total = 0.0
    for weight, share in zip(weights, importance, strict=True):
        code = min(max(round(weight / scale) + zero, 0), top)
        total += share * (weight - (code - zero) * scale) ** 2
    return total


def stored(scale: float, grid: Grid) -> float:
    """The scale as a grid stores it."""
    tensor = torch.tensor(scale, dtype=torch.float64).clamp(2.0**-24, 65280 if grid.symmetric else 65504).half()
    return float(tensor.bfloat16() if grid.symmetric else tensor)


def reference(weights: list[float], importance: list[float], grid: Grid) -> float:
    """The least loss of the codes of all shrunken ranges, on their own scale or the best for them."""
    best = float("inf")
    for factor in factors(grid.bits):
        low, high = min(*weights, 0.0) * factor, max(*weights, 0.0) * factor
        if grid.symmetric:
            high = max(-low, high)
            low = -high
        start = stored((high - low) / grid.top, grid)
        middle = 2 ** (grid.bits - 1) if grid.symmetric else min(max(round(-low / start), 0), grid.top)
        for shift in shifts(grid):
            zero = min(max(middle + shift, 0), grid.top)
            codes = [min(max(round(weight / start), -zero), grid.top - zero) for weight in weights]
            energy = sum(share * code**2 for share, code in zip(importance, codes, strict=True))
            cross = sum(s * w * c for s, w, c in zip(importance, weights, codes, strict=True))
            for scale in (start, stored(cross / energy, grid) if energy else start):
                errors = (s * (w - c * scale) ** 2 for s, w, c in zip(importance, weights, codes, strict=True))
                best = min(best, sum(errors))
    return best


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_equals_the_slow_search(grid: Grid) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    importance = torch.rand(7, generator=generator, dtype=torch.float64)
    scale, zero = search_scales(weights, importance, grid)
    for row in range(5):
        one, share = weights[:, row].tolist(), importance.tolist()
        found = loss(one, share, float(scale[row]), float(zero[row]), grid.top)
        assert found <= reference(one, share, grid) * (1 + 1e-12)  # rounding on the best scale can only gain


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6),
    st.lists(st.floats(0, 1e3, width=32), min_size=6, max_size=6),
    st.sampled_from(GRIDS),
)
def test_loses_no_more_than_the_full_range_and_can_be_stored(
    weights: list[float], importance: list[float], grid: Grid
) -> None:
    group = torch.tensor(weights, dtype=torch.float64).unsqueeze(1)
    share = torch.tensor(importance[: len(weights)], dtype=torch.float64)
    scale, zero = search_scales(group, share, grid)
    assert float(zero) in range(grid.top + 1)
    assert float(scale) == stored(float(scale), grid) > 0
    plain = fit(group.amin(0), group.amax(0), grid)
    losses = [loss(weights, share.tolist(), float(s), float(z), grid.top) for s, z in ((scale, zero), plain)]
    assert losses[0] <= losses[1] * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_groups_of_one_value(value: float) -> None:
    weights = torch.full((4, 3), value)
    for grid in GRIDS:
        scale, zero = search_scales(weights, torch.ones(4), grid)
        codes = torch.clamp(torch.round(weights / scale) + zero, 0, grid.top)
        error = ((codes - zero) * scale - weights).abs().max()
        plain, middle = fit(weights.amin(0), weights.amax(0), grid)
        full = (
            ((torch.clamp(torch.round(weights / plain) + middle, 0, grid.top) - middle) * plain - weights).abs().max()
        )
        assert float(error) <= float(full)


def test_columns_without_importance_decide_nothing() -> None:
    weights = torch.tensor([[0.1, 0.2], [-0.1, 0.1], [0.11, -0.1], [0.3, -0.4]])
    importance = torch.tensor([1.0, 1.0, 1.0, 0.0])
    scale, zero = search_scales(weights, importance, Grid(2))
    codes = torch.clamp(torch.round(weights / scale) + zero, 0, 3)
    errors = (codes - zero) * scale - weights
    assert float(errors[:3].abs().max()) < 0.011 < float(errors[3].abs().min())


def all_rows(grid: Grid, weights: Tensor) -> Tensor:
    return search_scales(weights, torch.ones(len(weights)), grid)[0]


def test_rows_do_not_see_each_other() -> None:
    weights = torch.randn(16, 9, generator=torch.Generator().manual_seed(2))
    together = all_rows(Grid(3), weights)
    assert torch.equal(together, torch.cat([all_rows(Grid(3), weights[:, i : i + 1]) for i in range(9)]))
