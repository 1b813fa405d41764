"""Intervals cover, widen and shrink as they must; paired tests agree with their definition and with a t test."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Scores
from evopress.fitness.resampling import intervals, paired, uncertainty

LENGTH = 256.0


def counts(n: int, length: float = LENGTH) -> np.ndarray:
    return np.full(n, length)


def one(sums: np.ndarray, of: np.ndarray, **options: object) -> tuple[float, float]:
    [found] = intervals(sums[None], of[None], **options)  # type: ignore[arg-type]
    assert found is not None
    return found


POPULATIONS = {
    "likelihoods": lambda rng, n: (rng.normal(3.0, 0.35, n) + rng.gamma(2.0, 0.1, n)) * LENGTH,
    "divergences": lambda rng, n: rng.lognormal(-0.5, 0.5, n) * LENGTH,
}
"""Losses of sequences as texts have them: documents differ, and divergences have a long tail."""


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [16, 40])
def test_95_percent_intervals_cover_the_full_text_in_90_to_99_percent(name: str, n: int) -> None:
    rng = np.random.default_rng(1)
    text = POPULATIONS[name](rng, 5000)
    truth = text.sum() / (len(text) * LENGTH)
    hits = 0
    for seed in range(200):
        low, high = one(rng.choice(text, n, replace=False), counts(n), seed=seed)
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_interval_is_about_that_of_the_normal_distribution() -> None:
    sums = np.random.default_rng(0).normal(3, 0.4, 400) * LENGTH
    low, high = one(sums, counts(400))
    error = sums.std(ddof=1) / LENGTH / math.sqrt(400)
    assert low == pytest.approx(sums.mean() / LENGTH - 1.966 * error, abs=0.15 * error)
    assert high == pytest.approx(sums.mean() / LENGTH + 1.966 * error, abs=0.15 * error)


def test_a_long_tail_reaches_further_up_than_down() -> None:
    sums = np.random.default_rng(0).lognormal(0, 1, 60) * LENGTH
    low, high = one(sums, counts(60))
    mean = sums.mean() / LENGTH
    assert high - mean > 1.3 * (mean - low)


def test_sequences_of_different_lengths_weigh_by_their_tokens() -> None:
    lengths = np.array([10.0, 1000.0] * 20)
    low, high = one(lengths * np.where(lengths > 500, 2.0, 7.0), lengths)
    assert low < (2 * 1000 + 7 * 10) / 1010 < high < 2.3


@given(st.lists(st.floats(0, 50), min_size=2, max_size=40), st.sampled_from((0.25, 8.0)))
def test_an_interval_holds_its_mean_scales_and_lies_within_the_data(losses: list[float], factor: float) -> None:
    sums = np.array(losses) * LENGTH
    low, high = one(sums, counts(len(losses)))
    slack = 1e-9 * (1 + max(losses))
    assert min(losses) - slack <= low <= high <= max(losses) + slack
    scaled = one(sums * factor, counts(len(losses)))
    assert scaled == pytest.approx((low * factor, high * factor), rel=1e-9, abs=1e-12)


def test_the_same_seed_gives_the_same_interval_and_another_hardly_another() -> None:
    sums = np.random.default_rng(0).lognormal(0, 0.5, 50) * LENGTH
    assert one(sums, counts(50), seed=3) == one(sums, counts(50), seed=3)
    assert one(sums, counts(50), seed=4) == pytest.approx(one(sums, counts(50), seed=3), rel=0.03)


def test_more_draws_than_fit_at_once_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).normal(3, 1, 30) * LENGTH
    whole = one(sums, counts(30))
    monkeypatch.setattr("evopress.fitness.resampling._AT_ONCE", 1000)
    assert one(sums, counts(30)) == whole


def test_one_sequence_and_losses_that_are_not_finite_have_no_interval() -> None:
    assert intervals(np.array([[3.0]]), np.array([[1.0]])) == [None]
    rows = np.array([[1.0, 2.0, 3.0], [1.0, math.nan, 3.0], [1.0, math.inf, 3.0]])
    first, second, third = intervals(rows, np.ones((3, 3)))
    assert first is not None
    assert second is third is None


def test_equal_losses_have_an_interval_of_no_width() -> None:
    assert one(np.zeros(8), counts(8)) == (0.0, 0.0)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_p_is_the_share_of_signs_that_reach_the_observed_sum(differences: list[int]) -> None:
    a = np.array(differences, dtype=float)
    signs = itertools.product((-1, 1), repeat=len(a))
    sums = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) for row in signs]
    expected = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    assert paired(a, np.zeros(len(a)), np.ones(len(a))).p == expected


def test_many_sequences_are_tested_by_random_signs_as_by_students_t() -> None:
    rng = np.random.default_rng(0)
    base, shift = rng.lognormal(0, 0.5, 100), rng.normal(-0.02, 0.1, 100)
    found = paired(base + shift, base, np.ones(100))
    t = shift.mean() / (shift.std(ddof=1) / 10)
    normal = math.erfc(abs(t) / math.sqrt(2))
    assert found.p == pytest.approx(normal, abs=0.02)
    assert found.difference == pytest.approx(shift.mean())
    assert found.interval is not None
    assert found.interval[0] < found.difference < found.interval[1]


def test_pairing_sees_a_small_difference_among_very_different_sequences() -> None:
    rng = np.random.default_rng(0)
    base = rng.lognormal(0, 1, 40)
    found = paired(base * 0.97, base, np.ones(40))
    assert found.p < 0.001
    assert found.interval is not None
    assert found.interval[1] < 0
    apart = intervals(np.stack([base * 0.97, base]), np.ones((2, 40)))
    assert apart[0] is not None
    assert apart[1] is not None
    assert apart[0][1] > apart[1][0]  # the intervals of the two overlap


def test_without_a_difference_p_is_spread_evenly() -> None:
    rng = np.random.default_rng(2)
    found = [paired(rng.normal(size=20), np.zeros(20), np.ones(20)).p for _ in range(200)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.09
    assert min(found) > 0


def test_losses_that_are_not_finite_decide_nothing() -> None:
    found = paired(np.array([1.0, math.inf]), np.array([1.0, math.inf]), np.ones(2))
    assert found.interval is None
    assert found.p == 1


def made_scores(sums: list[list[list[float]]]) -> Scores:
    made = torch.tensor(sums, dtype=torch.float64)
    return Scores((KL(), Perplexity()), made, torch.tensor([[10.0] * made.shape[-1], [9.0] * made.shape[-1]]).double())


def test_what_is_recorded_of_profiles() -> None:
    rng = np.random.default_rng(0)
    own, other = rng.lognormal(0, 0.3, (2, 2, 30)) + np.array([[[0.0]], [[1.0]]])
    scores = made_scores([own.tolist(), other.tolist()])
    found = uncertainty(["searched", "uniform"], scores)
    assert found["sequences"] == 30
    limits = found["intervals"]
    for row, name in enumerate(("searched", "uniform")):
        for at, key in enumerate(("kl", "perplexity")):
            low, high = limits[name][key]  # type: ignore[index]
            assert low < scores.scores(at)[row] < high
    versus = found["against"]["uniform"]  # type: ignore[index]
    assert versus["kl"]["difference"] == pytest.approx(scores.scores(0)[0] - scores.scores(0)[1])
    assert versus["perplexity"]["ratio"] == pytest.approx(scores.scores(1)[0] / scores.scores(1)[1])
    assert versus["perplexity"]["interval"][1] < 1
    assert versus["kl"]["p"] < 0.001


def test_only_the_profile_that_is_there_is_held_against_others() -> None:
    scores = made_scores([[[1.0, 2.0], [3.0, 4.0]]])
    assert "against" not in uncertainty(["dense"], scores)
    assert uncertainty(["searched"], scores)["against"] == {}


def test_a_perplexity_beyond_floats_has_no_limits() -> None:
    found = uncertainty(["searched"], made_scores([[[1.0, 2.0], [9e4, 9.1e4]]]))
    assert found["intervals"]["searched"]["perplexity"] is None  # type: ignore[index]
