"""The Hessian: a running mean, a factor that gives its inverse, and damping that grows only when it must."""

import pytest
import torch

from evopress.errors import ConfigError, DataError
from evopress.levels import hessian as hessian_module
from evopress.levels.hessian import MAX_DAMPING, Hessian, make_feedback, relative_error, retarget


def samples(tokens: int = 40, columns: int = 6) -> torch.Tensor:
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("strip", [1, 4, 192])
def test_batches_of_any_size_give_the_mean_outer_product(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian_module, "STRIP", strip)
    x = samples()
    hessian = Hessian(6, dtype=torch.float64)
    for part in x.split([1, 0, 9, 30]):
        hessian.add(part)
    assert hessian.tokens == 40
    torch.testing.assert_close(hessian.matrix, x.T @ x / 40)
    assert torch.equal(hessian.matrix, hessian.matrix.T)


def test_half_precision_inputs_are_summed_in_fp32() -> None:
    x = samples().bfloat16()
    hessian = Hessian(6)
    hessian.add(x)
    assert hessian.matrix.dtype == torch.float32
    torch.testing.assert_close(hessian.matrix, x.float().T @ x.float() / 40)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(40, 6\), must be \(tokens, 5\)"):
        Hessian(5).add(samples())


@pytest.mark.parametrize("band", [1, 4, 256])
def test_the_factor_gives_the_inverse_of_the_damped_hessian(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian_module, "BAND", band)
    x = samples()
    feedback = make_feedback(x.T @ x / 40, damping=0.1, dtype=torch.float64)
    damped = x.T @ x / 40 + feedback.ridge * torch.eye(6, dtype=torch.float64)
    assert feedback.ridge == pytest.approx(0.1 * float((x.T @ x / 40).diagonal().mean()))
    inverse = feedback.matrix.T @ torch.diag(1 / feedback.cost) @ feedback.matrix
    torch.testing.assert_close(inverse @ damped, torch.eye(6, dtype=torch.float64))
    assert torch.equal(feedback.matrix, feedback.matrix.triu())
    assert torch.equal(feedback.matrix.diagonal(), torch.ones(6, dtype=torch.float64))


def test_damping_grows_tenfold_until_the_factor_exists() -> None:
    x = samples()
    hessian = x.T @ x / 40
    hessian[0, 0] *= 0.02
    lowest = float(torch.linalg.eigvalsh(hessian)[0] / hessian.diagonal().mean())
    assert -0.1 < lowest < -0.01, "the case must need more than the first damping and less than the second"
    assert make_feedback(hessian, damping=0.01).damping == pytest.approx(0.1)
    assert make_feedback(x.T @ x, damping=0.01).damping == 0.01


def test_a_singular_hessian_without_damping_is_not_inverted_by_luck() -> None:
    nearly_singular = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-9]], dtype=torch.float64)
    assert int(torch.linalg.cholesky_ex(nearly_singular).info) == 0, "the case must pass a bare Cholesky"
    assert make_feedback(nearly_singular, damping=0.0).damping == hessian_module.FIRST_DAMPING
    assert make_feedback(torch.eye(2), damping=0.0).damping == 0


def test_a_hopeless_hessian_raises() -> None:
    with pytest.raises(DataError, match="6 columns is not positive definite with damping 1"):
        make_feedback(torch.ones(6, 6) - 20 * (1 - torch.eye(6)), damping=0.01)


@pytest.mark.parametrize("damping", [-0.1, MAX_DAMPING * 1.1, float("nan")])
def test_impossible_damping_is_refused(damping: float) -> None:
    with pytest.raises(ConfigError, match="damping is"):
        make_feedback(torch.eye(3), damping=damping)


def test_dead_columns_do_not_dilute_the_damping() -> None:
    feedback = make_feedback(torch.diag(torch.tensor([4.0, 0.0, 2.0])), damping=0.01)
    assert feedback.ridge == pytest.approx(0.03)
    assert torch.equal(feedback.matrix, torch.eye(3))
    assert make_feedback(torch.zeros(3, 3), damping=0.01).damping == 0.01


def test_nothing_of_nothing_is_no_error() -> None:
    assert relative_error(0.0, 0.0) == 0.0
    assert relative_error(-1e-12, 0.0) == 0.0
    assert relative_error(1.0, 4.0) == 0.25


def test_the_mismatch_is_the_mean_of_what_is_missing_times_the_input() -> None:
    x, u = samples(), samples() ** 2
    hessian = Hessian(6, dtype=torch.float64)
    assert hessian.mismatch is None
    for part, uncompressed in zip(x.split([7, 33]), u.split([7, 33]), strict=True):
        hessian.add(part, uncompressed)
    torch.testing.assert_close(hessian.mismatch, (u - x).T @ x / 40)
    torch.testing.assert_close(hessian.matrix, x.T @ x / 40)


@pytest.mark.parametrize("ordered", [False, True])
def test_retargeted_weights_are_the_least_squares_solution(ordered: bool) -> None:
    x, u = samples(), samples() + 0.3 * samples(columns=6) ** 2
    weights = samples(3)
    hessian = x.T @ x / 40
    order = torch.tensor([3, 0, 5, 1, 2, 4]) if ordered else None
    own = hessian if order is None else hessian[order][:, order]
    feedback = make_feedback(own, damping=0.05, dtype=torch.float64)
    found = retarget(weights, (u - x).T @ x / 40, feedback, order)
    # ||W u - V x||^2 + ridge ||V - W||^2 as one stacked problem of rows.
    root = (40 * feedback.ridge) ** 0.5 * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([x, root]), torch.cat([u @ weights.T, root @ weights.T])).solution.T
    torch.testing.assert_close(found, expected)
