"""Measures against the definitions, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.errors import ConfigError
from evopress.fitness.divergence import KL, Measure, Perplexity, TopKL, make_measure


def logits(seed: int, tokens: int = 5, vocabulary: int = 40, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def run(
    measure: Measure, teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor | None = None
) -> torch.Tensor:
    targets = torch.zeros(len(teacher), dtype=torch.long) if targets is None else targets
    return measure.losses(measure.prepare(teacher.clone(), targets), student.clone())


def exact_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    p, q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@given(st.integers(0, 1000), st.floats(0.01, 20))
def test_kl_is_the_definition(seed: int, scale: float) -> None:
    teacher, student = logits(seed, scale=scale), logits(seed + 1, scale=scale)
    torch.testing.assert_close(run(KL(), teacher, student).double(), exact_kl(teacher, student), rtol=1e-4, atol=1e-5)


def test_kl_of_equal_logits_is_zero_and_small_differences_are_resolved() -> None:
    teacher = logits(0, vocabulary=5000)
    assert run(KL(), teacher, teacher).abs().max() == 0
    nearby = teacher + 1e-3 * logits(1, vocabulary=5000)
    torch.testing.assert_close(run(KL(), teacher, nearby).double(), exact_kl(teacher, nearby), rtol=0.1, atol=2e-7)


@given(st.integers(0, 1000), st.integers(1, 60))
def test_top_k_is_a_lower_bound_that_becomes_exact(seed: int, k: int) -> None:
    teacher, student = logits(seed), logits(seed + 1)
    full, top = exact_kl(teacher, student), run(TopKL(k), teacher, student).double()
    assert (top <= full + 1e-4).all()
    assert (top >= -1e-5).all()
    if k >= 39:
        torch.testing.assert_close(top, full, rtol=1e-3, atol=1e-4)


def test_top_k_counts_mass_outside_the_top() -> None:
    """A student that moves its mass to tokens the teacher does not rank must pay: renormalising would make it free."""
    teacher = torch.zeros(1, 40)
    teacher[0, :4] = 8.0
    student = teacher.clone()
    student[0, 4:] = 8.0
    assert run(TopKL(4), teacher, student).item() > 1.0


def test_perplexity_is_exp_of_mean_likelihood_and_skips_tokens_without_target() -> None:
    student = logits(3)
    targets = torch.tensor([4, 0, 7, 39, -1])
    measure = Perplexity()
    losses = run(measure, logits(0), student, targets)
    expected = -student.double().log_softmax(-1)[torch.arange(4), targets[:4]]
    torch.testing.assert_close(losses[:4].double(), expected, rtol=1e-5, atol=1e-5)
    assert losses[4] == 0
    assert measure.counted(targets).tolist() == [True, True, True, True, False]
    assert measure.score(math.log(17.6)) == pytest.approx(17.6)
    assert measure.score(1e4) == math.inf


def test_own_functions_are_measures() -> None:
    measure = make_measure(lambda teacher, student: (teacher - student).abs().amax(-1))
    teacher, student = logits(0), logits(1)
    assert torch.equal(run(measure, teacher, student), (teacher - student).abs().amax(-1))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown fitness 'jsd'; known: kl, perplexity, topk-kl"):
        make_measure("jsd")
