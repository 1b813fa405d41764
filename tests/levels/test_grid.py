"""Grids: widths, spans, scales that are always usable."""

import pytest
import torch

from evopress.errors import ConfigError
from evopress.levels.grid import MIN_SCALE, Grid, fit


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_outside_one_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"bits is {bits}"):
        Grid(bits)


def test_group_sizes_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="group size is 0"):
        Grid(4, 0)
    with pytest.raises(ConfigError, match="group size is 65, must be at most the 64 columns"):
        Grid(4, 65).groups(64)


def test_spans_cover_the_columns_with_a_smaller_last_group() -> None:
    assert Grid(4, 24).spans(49) == [slice(0, 24), slice(24, 48), slice(48, 49)]
    assert Grid(4).spans(49) == [slice(0, 49)]
    assert Grid(4, 24).groups(49) == 3


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_scales_are_positive_finite_fp16_numbers(bits: int, symmetric: bool) -> None:
    low = torch.tensor([0.0, 0.5, -3.0, -1e-12, -1e30, 1e38, -3e38])
    high = torch.tensor([0.0, 0.5, -3.0, 1e-12, 1e30, 1e38, 3e38])
    scale, zero = fit(low, high, Grid(bits, symmetric=symmetric))
    assert torch.equal(scale, scale.half().float())
    assert bool((scale >= MIN_SCALE).all())
    assert bool(scale.isfinite().all())
    assert bool((zero == zero.round()).all())
    assert bool(((zero >= 0) & (zero <= 2**bits - 1)).all())


@pytest.mark.parametrize("bits", range(1, 9))
def test_symmetric_scales_survive_either_half_precision(bits: int) -> None:
    high = 2.0 ** torch.linspace(-30, 40, 999)
    scale, _ = fit(-high, high, Grid(bits, symmetric=True))
    assert torch.equal(scale, scale.to(torch.bfloat16).float())
    assert torch.equal(scale, scale.to(torch.float16).float())
    inside = (scale > 2.0**-14) & (scale < 60_000)
    exact = high.double() * 2 / (2**bits - 1)
    assert bool(((scale / exact)[inside] - 1).abs().max() < 2**-8 + 2**-11)


def test_zero_is_on_the_grid_and_the_ends_are_met() -> None:
    scale, zero = fit(torch.tensor([-1.0, 2.0]), torch.tensor([2.0, 3.0]), Grid(2))
    assert scale.tolist() == [1.0, 1.0]
    assert zero.tolist() == [1.0, 0.0]


def test_symmetric_codes_are_centred() -> None:
    scale, zero = fit(torch.tensor([-1.5]), torch.tensor([0.2]), Grid(2, symmetric=True))
    assert (scale.item(), zero.item()) == (1.0, 2.0)
