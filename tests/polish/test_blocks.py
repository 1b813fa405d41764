"""Learning a block: from its level on, towards the dense block's outputs, never worse, the same each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from evopress.levels.grid import Grid
from evopress.levels.rtn import quantize_rtn
from evopress.models import Runner, describe
from evopress.models.weights import weight
from evopress.polish.blocks import Forms, Outcome, Rates, block_error, polish_block, relative_error
from evopress.polish.learnable import learnable
from evopress.polish.text import Text
from evopress.testing import pico_model

RATES = Rates(epochs=8, codes=0.03, floats=0.01)


def setting(architecture: str = "llama", block: int = 1) -> tuple[Text, Forms, list[torch.Tensor], Any]:
    """A text, a block at 2 bits, its dense inputs, and the dense targets."""
    model = pico_model(architecture, blocks=2)
    runner = Runner(model, describe(model))
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 96, (n,), generator=generator) for n in (12, 12, 12, 7, 12)]
    text = Text.of(runner, sequences, part_tokens=24)
    forms, transposed = {}, set()
    for linear in runner.map.of_block(block):
        dense = weight(model, linear.view)
        form = learnable(quantize_rtn([dense], [Grid(2, 16)])[0][0].tensor, dense)
        assert form is not None
        forms[linear.view.parameter] = form
        if linear.view.transposed:
            transposed.add(linear.view.parameter)
    inputs = text.begin()
    for before in range(block):
        inputs = text.through(inputs, lambda hidden, contexts, b=before: runner.block(b, hidden, contexts))
    targets = text.through(inputs, lambda hidden, contexts: runner.block(block, hidden, contexts))
    return text, Forms(forms, frozenset(transposed)), inputs, targets


def tensors(forms: Forms) -> Mapping[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, form in forms.learned.items()
        for key, tensor in form.packed().tensors().items()
    }


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_block_comes_nearer_to_the_dense_one_the_same_way_each_time(architecture: str):
    def go() -> tuple[Outcome, Mapping[str, torch.Tensor], float]:
        text, forms, inputs, targets = setting(architecture)
        outcome = polish_block(text, 1, forms, inputs, targets, RATES)
        return outcome, tensors(forms), block_error(text, 1, forms, inputs, targets)

    outcome, learned, error = go()
    assert outcome.after < 0.9 * outcome.before
    assert error == outcome.after
    again, same, _ = go()
    assert again == outcome
    assert all(torch.equal(learned[name], same[name]) for name in learned)


def test_a_block_that_does_not_gain_stays_as_it_was():
    text, forms, inputs, targets = setting()
    before = tensors(forms)
    wild = Rates(epochs=2, codes=3.0, floats=0.9)
    outcome = polish_block(text, 1, forms, inputs, targets, wild)
    assert outcome.after == outcome.before
    after = tensors(forms)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_gradient_is_that_of_a_slow_reference():
    """Central differences of the loss in float64, with a dense weight moved in the direction of the gradient."""
    text, forms, inputs, targets = setting()
    name, form = next(iter(forms.learned.items()))
    part = text.parts()[0]
    given = [group[part.members] for group in (inputs[part.group], targets[part.group])]
    numbers = forms.numbers("codes")
    for tensor in numbers:
        tensor.requires_grad_()
    dense = {key: value.detach() for key, value in forms.weights(torch.float32).items()}
    moved = forms.weights(torch.float32)
    for tensor in moved.values():
        tensor.retain_grad()
    output = text.runner.block(1, given[0], text.contexts(part), moved)
    relative_error(output, given[1]).mean().backward()
    direction = moved[name].grad
    assert direction is not None
    assert form.codes is not None
    assert form.codes.grad is not None
    torch.testing.assert_close(  # and a code's gradient is its value's times the scale
        form.codes.grad.view(direction.shape[0], -1)[:, : direction.shape[1]],
        (direction.view(direction.shape[0], -1, 16) * form.scale.detach()).view(direction.shape),  # type: ignore[attr-defined]
    )
    direction = direction / direction.norm()

    def loss(step: float) -> float:
        shifted = dense | {name: dense[name] + step * direction}
        return float(
            relative_error(text.runner.block(1, given[0], text.contexts(part), shifted), given[1]).double().mean()
        )

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert slope == pytest.approx(float((moved[name].grad * direction).sum()), rel=2e-2)  # type: ignore[operator]


def test_streams_keep_sequences_of_all_lengths():
    text, _, inputs, _ = setting()
    assert [tuple(group.shape) for group in inputs] == [(4, 12, 48), (1, 7, 48)]
    assert text.tokens == 55
    shuffled = text.parts(torch.Generator().manual_seed(3))
    assert sorted((part.group, member) for part in shuffled for member in part.members.tolist()) == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0),
    ]  # fmt: skip
