"""Learning end to end: the gradient of the real divergence, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evopress.levels.grid import Grid
from evopress.levels.rtn import quantize_rtn
from evopress.models import Runner, describe
from evopress.models.assemble import EMBEDDING, HEAD
from evopress.models.ends import head_unit, with_ends
from evopress.models.weights import set_weight, weight
from evopress.polish.model import Student, divergence, gradient_step, teacher_inputs
from evopress.polish.text import Text
from evopress.testing import pico_model


def setting(architecture: str, *, ends: bool = False) -> tuple[Any, Student, Text]:
    model = pico_model(architecture, blocks=2)
    runner = Runner(model, with_ends(model, describe(model)) if ends else describe(model))
    ids = [torch.arange(3, 13) * 7 % 96, torch.arange(3, 13) * 5 % 96, torch.arange(4, 10) * 11 % 96]
    levels, transposed = {}, set()
    for linear in runner.map.linears:
        levels[linear.view.parameter] = quantize_rtn([weight(model, linear.view)], [Grid(3, 16)])[0][0].tensor
        if linear.view.transposed:
            transposed.add(linear.view.parameter)
    own = {EMBEDDING: runner.map.linears[0], HEAD: head_unit(model, runner.map)} if ends else {}
    acting = {place: linear for place, linear in own.items() if linear is not None}
    student = Student(runner, levels, frozenset(transposed), acting, head_rows=7)
    return model, student, Text.of(runner, ids, part_tokens=20)


def stock_divergence(model: Any, student: Student, ids: Tensor, stretched: dict[str, Tensor]) -> Tensor:
    """The mean KL by transformers' own forward pass, with weights put into the model for good."""
    with torch.no_grad():
        p = model(ids).logits.double().log_softmax(-1)
        dense = {linear: weight(model, linear.view) for linear in student.runner.map.linears}
        for linear in dense:
            packed: Any = student.levels[linear.view.parameter]
            scale = packed.scale.double() * stretched[linear.view.parameter]
            signed = packed.unpacked_codes().double() - packed.unpacked_zeros().double().repeat_interleave(16, 1)
            set_weight(model, linear.view, (signed * scale.repeat_interleave(16, 1)).float())
        q = model(ids).logits.double().log_softmax(-1)
        for linear, tensor in dense.items():
            set_weight(model, linear.view, tensor)
    return (p.exp() * (p - q)).sum(-1).mean()


@pytest.mark.parametrize("ends", [False, True], ids=["blocks", "embedding-and-head"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_divergence_and_gradient_are_those_of_a_slow_reference(architecture: str, ends: bool):
    """Central differences of the stock model's divergence along the gradient, for all scales together.

    The embedding of gpt2 and gemma2 is the head, too, and that of gemma2 is multiplied with a number.
    """
    model, student, text = setting(architecture, ends=ends)
    assert len(student.outer) == (0 if not ends else 2 if architecture == "llama" else 1)
    part = text.parts()[0]
    teacher = teacher_inputs(text)
    ones = {name: torch.ones(floats.shape[:2], dtype=torch.float64) for name, floats in student.floats.items()}
    ids = text.tokens_of(part)
    for floats in student.floats.values():
        floats.requires_grad_()
    loss = gradient_step(student, text, part, teacher)
    assert loss == pytest.approx(float(stock_divergence(model, student, ids, ones)), rel=1e-3)
    slopes = {name: floats.grad[..., 0].double() for name, floats in student.floats.items() if floats.grad is not None}
    assert slopes.keys() == student.floats.keys()
    norm = torch.stack([slope.square().sum() for slope in slopes.values()]).sum().sqrt()
    step = 0.02

    def along(sign: int) -> float:
        moved = {name: ones[name] + sign * step * slope / norm for name, slope in slopes.items()}
        return float(stock_divergence(model, student, ids, moved))

    assert (along(1) - along(-1)) / (2 * step) == pytest.approx(float(norm), rel=2e-2)


def test_the_whole_text_counts_each_token_once():
    model, student, text = setting("llama")
    teacher = teacher_inputs(text)
    ones = {name: torch.ones(floats.shape[:2], dtype=torch.float64) for name, floats in student.floats.items()}
    sums = [stock_divergence(model, student, ids, ones) * ids.numel() for ids in text.ids]
    assert divergence(student, text, teacher) == pytest.approx(float(sum(sums)) / 26, rel=1e-3)
