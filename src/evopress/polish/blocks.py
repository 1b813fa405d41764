"""Learning codes and scales of one block after the other, so that its outputs become those of the dense block.

A block's inputs are those of the compressed model so far, its target is the dense block's output on dense inputs: so
each block also repairs what those before it have left. The loss is relative for each token, ||y - y'||^2 / ||y'||^2,
since the next thing that reads a token, a norm, divides by its length, and the states of a few tokens are a thousand
times as large as those of the others. Costs three passes of the block for each epoch over the text,
and two or three of its weights for each step; live are one block's numbers, their moments, and the text's hidden states
as `evopress.polish.text` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evopress.polish.learnable import Learnable
from evopress.polish.text import Part, Text, epochs, pick


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How a block is learned: epochs over the text, and the largest steps in codes and in shares of a scale.

    Steps shrink to nothing, linearly. The loss on the whole text is looked at `checks` times.
    """

    epochs: int
    codes: float
    floats: float
    checks: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The mean relative squared error of a block's outputs, before and after."""

    before: float
    after: float


@dataclass(frozen=True)
class Forms:
    """Weights to be learned, by their parameters' names, and which of the parameters are stored as (in, out)."""

    learned: Mapping[str, Learnable]
    transposed: frozenset[str] = frozenset()

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All of them in the layout of the parameters, differentiable."""
        made = {name: form.weight(dtype) for name, form in self.learned.items()}
        return {name: weight.T if name in self.transposed else weight for name, weight in made.items()}

    def numbers(self, kind: str) -> list[Tensor]:
        """What is learned of one kind, `codes` or `floats`, in all weights."""
        found = [getattr(form, kind) for form in self.learned.values()]
        return [numbers for numbers in found if numbers is not None]

    def moving(self) -> list[Tensor]:
        """What an optimiser moves: a rate of nothing leaves numbers out."""
        return [numbers for kind in ("codes", "floats") for numbers in self.numbers(kind) if numbers.requires_grad]

    def state(self) -> list[Tensor]:
        """A copy of all numbers."""
        return [tensor.detach().clone() for kind in ("codes", "floats") for tensor in self.numbers(kind)]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Give the numbers the values of a `state`."""
        for tensor, value in zip(self.numbers("codes") + self.numbers("floats"), state, strict=True):
            tensor.data.copy_(value)


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """||y - y'||^2 / ||y'||^2 of each token (...,) for outputs and targets (..., width), in fp32."""
    output, target = output.float(), target.float()
    smallest = torch.finfo(torch.float32).tiny
    return (output - target).square().sum(-1) / target.square().sum(-1).clamp_min(smallest)


def polish_block(
    text: Text, block: int, forms: Forms, inputs: Sequence[Tensor], targets: Sequence[Tensor], rates: Rates
) -> Outcome:
    """Learn the block's weights on `inputs` and `targets`, hidden states by length; keeps the best that was seen.

    Where nothing was better than the start, the start is what stays, bit for bit.
    """

    def backward(part: Part) -> None:
        hidden, weights = pick(inputs, part), forms.weights(text.runner.model.dtype)
        output = text.runner.block(block, hidden, text.contexts(part), weights)
        torch.autograd.backward(relative_error(output, pick(targets, part)).mean(), inputs=forms.moving())

    return learn(text, forms, rates, block, lambda: block_error(text, block, forms, inputs, targets), backward)


def learn(
    text: Text, forms: Forms, rates: Rates, block: int, error: Callable[[], float], backward: Callable[[Part], None]
) -> Outcome:
    """Follow the gradients that `backward` adds for parts of the text; what has the least `error` stays."""
    before = error()
    if not forms.learned:
        return Outcome(before, before)
    best, state = before, forms.state()
    optimizer = make_optimizer([(forms.numbers("codes"), rates.codes), (forms.numbers("floats"), rates.floats)])
    schedule = linear_decay(optimizer, rates.epochs * len(text.parts()))
    for epoch, parts in epochs(text, rates.epochs, rates.seed + block):
        for part in parts:
            optimizer.zero_grad()
            backward(part)
            optimizer.step()
            schedule.step()
            for form in forms.learned.values():
                form.confine()
        if (epoch + 1) * rates.checks // rates.epochs > epoch * rates.checks // rates.epochs:
            now = error()
            if now < best:
                best, state = now, forms.state()
    forms.restore(state)
    for tensor in forms.moving():
        tensor.requires_grad_(False)
    return Outcome(before, best)


def block_error(text: Text, block: int, forms: Forms, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """The mean of `relative_error` over the whole text."""
    total = 0.0
    with torch.no_grad():
        weights = forms.weights(text.runner.model.dtype)  # the state may be kept in fp32
        for part in text.parts():
            output = text.runner.block(block, pick(inputs, part), text.contexts(part), weights)
            total += float(relative_error(output, pick(targets, part)).sum(dtype=torch.float64))
    return total / text.tokens


def make_optimizer(groups: Sequence[tuple[Sequence[Tensor], float]]) -> torch.optim.Adam:
    """Adam for (numbers, largest step) of each group; makes them require grad. Groups without numbers are left out."""
    kept = [
        {"params": [tensor.requires_grad_() for tensor in tensors], "lr": rate, "initial_lr": rate}
        for tensors, rate in groups
        if tensors and rate
    ]
    return torch.optim.Adam(kept, betas=(0.9, 0.95), fused=True)


def linear_decay(optimizer: torch.optim.Optimizer, steps: int, done: int = 0) -> torch.optim.lr_scheduler.LambdaLR:
    """Steps that shrink to nothing in `steps`, `done` of which have been made."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps, last_epoch=done - 1)
