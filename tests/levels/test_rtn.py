"""Round to nearest: nearest indeed, and a fixed point of itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.errors import BadWeights, ConfigError
from evopress.levels import Grid, Hessian, quantize_rtn


def weights(rows: int = 6, columns: int = 25) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


@given(bits=st.integers(1, 8), seed=st.integers(0, 10**6), exponent=st.integers(-14, 4))
def test_weights_that_lie_on_a_grid_stay_where_they_are(bits: int, seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (4, 16), generator=generator)
    codes[:, ::8], codes[:, 1::8] = 0, 2**bits - 1  # both ends of every group of 8
    zero = torch.randint(0, 2**bits, (4, 2), generator=generator).repeat_interleave(8, 1)
    scale = ((1 + torch.rand(4, 2, generator=generator)) * 2.0**exponent).half().float().repeat_interleave(8, 1)
    values = (codes - zero) * scale
    [[once]] = quantize_rtn([values], [Grid(bits, 8)])
    assert torch.equal(once.tensor.dequantize(), values)
    assert torch.equal(once.tensor.unpacked_codes().long(), codes)
    assert once.error == 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [None, 8, 24, 25])
def test_every_weight_goes_to_the_nearest_value(group_size: int | None, symmetric: bool) -> None:
    grid = Grid(3, group_size, symmetric)
    [[result]] = quantize_rtn([weights()], [grid])
    group = torch.arange(25) // grid.width(25)
    scale = result.tensor.scale.float()[:, group]
    zero = result.tensor.unpacked_zeros().float()[:, group]
    values = (torch.arange(8.0) - zero[..., None]) * scale[..., None]
    nearest = (values - weights()[..., None]).abs().amin(-1)
    torch.testing.assert_close((result.tensor.dequantize() - weights()).abs(), nearest)


def test_errors_are_relative_and_follow_the_hessian() -> None:
    hessian = Hessian(25)
    hessian.add(torch.randn(50, 25, generator=torch.Generator().manual_seed(2)))
    [[plain]] = quantize_rtn([weights()], [Grid(3, 8)])
    [[measured]] = quantize_rtn([weights()], [Grid(3, 8)], hessian=hessian.matrix)
    difference = weights() - plain.tensor.dequantize()
    assert plain.error == pytest.approx(float(difference.square().sum() / weights().square().sum()))
    energy = (weights() @ hessian.matrix * weights()).sum()
    assert measured.error == pytest.approx(float((difference @ hessian.matrix * difference).sum() / energy))


def test_constant_and_zero_groups_are_kept() -> None:
    constant = torch.cat([torch.zeros(2, 8), torch.full((2, 8), 0.5), torch.full((2, 8), -0.25)], 1)
    for grid in (Grid(4, 8), Grid(1, 8), Grid(8, 8)):
        [[result]] = quantize_rtn([constant], [grid])
        torch.testing.assert_close(result.tensor.dequantize(), constant, rtol=2e-3, atol=0)
    [[result]] = quantize_rtn([torch.zeros(2, 8)], [Grid(4, symmetric=True)])
    assert torch.equal(result.tensor.dequantize(), torch.zeros(2, 8))
    assert result.error == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_named(bad: float) -> None:
    broken = weights()
    broken[2, 3] = bad
    with pytest.raises(BadWeights, match="weight 1 of 2"):
        quantize_rtn([weights(), broken], [Grid(3)])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        quantize_rtn([], [Grid(3)])
    with pytest.raises(ConfigError, match="equal columns"):
        quantize_rtn([weights(), weights(columns=24)], [Grid(3)])
    with pytest.raises(ConfigError, match="Hessian has shape"):
        quantize_rtn([weights()], [Grid(3)], hessian=torch.eye(3))
