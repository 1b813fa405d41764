"""Sequences on their way through the blocks and back: what expanding the divergence needs of a model, block by block.

Forward without gradients, keeping each block's input; then from the head down, one block at a time, run once more with
gradients. So one block's graph is live at any time, whatever the model's depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from evopress.fitness.evaluator import Evaluator
from evopress.fitness.sensitivity_ends import Ends, moments
from evopress.models.assemble import HEAD, Choice
from evopress.models.batches import batch_indices
from evopress.models.capture import Rows, collect_inputs, collect_outputs
from evopress.models.describe import Linear
from evopress.models.runner import Contexts
from evopress.text.tokens import Piece


@dataclass(frozen=True)
class Signal:
    """One linear on one batch: its input (tokens, in), and delta and delta' (tokens, out) in fp32."""

    input: Tensor
    kl: Tensor
    nll: Tensor


@dataclass
class Batch:
    """Sequences of one length, `ids` (batch, length), on their way through the blocks and back.

    `hidden` is the state between blocks, `inputs` the inputs of the blocks before it; on the way back `kl` and `nll`
    are the gradients of the two summed losses with respect to the state, all (batch, length, width).
    """

    pieces: list[Piece]
    ids: Tensor
    hidden: Tensor
    contexts: Contexts
    inputs: list[Tensor] = field(default_factory=list)
    kl: Tensor = field(init=False)
    nll: Tensor = field(init=False)

    def forward(self, evaluator: Evaluator, block: int) -> None:
        """One block ahead, without gradients."""
        self.inputs.append(self.hidden)
        self.hidden = evaluator.runner.block(block, self.hidden, self.contexts)

    def differentiate_head(self, evaluator: Evaluator, ends: Ends, head: Choice, generator: torch.Generator) -> None:
        """From the last block's output to the gradients with respect to it."""
        last = self.hidden.detach().requires_grad_()
        head_input = evaluator.runner.finish(last, self.contexts)
        flat = head_input.detach().reshape(-1, head_input.shape[-1])
        teacher = torch.cat([evaluator.teacher.hidden(piece.sequence, piece.length) for piece in self.pieces])
        kl, nll = torch.empty_like(flat), torch.empty_like(flat)
        for chunk in evaluator.head_chunks(len(flat)):
            evaluator.assembly.use(HEAD)
            with torch.no_grad():
                expected = evaluator.runner.logits(teacher[chunk]).softmax(-1)
            evaluator.assembly.use(HEAD, head)
            kl[chunk], nll[chunk] = _head_gradients(evaluator, expected, flat[chunk], ends, generator)
        self.kl, self.nll = _pull_back(
            head_input, [get_gradient_edge(last)], kl.view_as(head_input), nll.view_as(head_input)
        )[0]

    def backward(self, evaluator: Evaluator, block: int, linears: Sequence[Linear] = ()) -> dict[str, Signal]:
        """One block back, run once more with gradients; returns what these of its linears saw.

        What no gradient reaches (a linear that only chooses which tokens are attended to) is moved by nothing: zero.
        """
        runner = evaluator.runner
        inputs = Rows(linear.input_group for linear in linears)
        edges: dict[str, list[tuple[GradientEdge | None, torch.Size]]] = {linear.name: [] for linear in linears}

        def keep(name: str, output: Tensor) -> None:  # an edge stays right when the block changes the output in place
            edges[name].append((get_gradient_edge(output) if output.requires_grad else None, output.shape))

        self.hidden = self.inputs.pop()
        hidden = self.hidden.detach().requires_grad_()
        with ExitStack() as captures:
            if linears:
                captures.enter_context(collect_inputs(runner.model, runner.map, block, inputs))
                captures.enter_context(collect_outputs(runner.model, runner.map, block, keep))
            output = runner.block(block, hidden, self.contexts)
        wanted = [edge for calls in edges.values() for edge, _ in calls if edge is not None]
        (self.kl, self.nll), *gradients = _pull_back(output, [get_gradient_edge(hidden), *wanted], self.kl, self.nll)
        found = iter(gradients)
        signals = {}
        for linear in linears:
            calls = [(shape, *((None, None) if edge is None else next(found))) for edge, shape in edges[linear.name]]
            rows = [[_rows(hidden.new_zeros(shape) if own is None else own) for own in both] for shape, *both in calls]
            kl, nll = (torch.cat(own) for own in zip(*rows, strict=True))
            signals[linear.name] = Signal(inputs.of(linear.input_group), kl, nll)
        return signals

    def moved(self, evaluator: Evaluator, block: int) -> Tensor:
        """The `moments` of what the block's output moves by, if the block has the levels that are in the model now."""
        change = evaluator.runner.block(block, self.inputs[-1], self.contexts) - self.hidden
        return moments(_rows(change), _rows(self.kl), _rows(self.nll))


def begin(evaluator: Evaluator, pieces: Sequence[Piece]) -> list[Batch]:
    """The pieces of one length together, at the first block's input."""
    batches = []
    for group in batch_indices([piece.length for piece in pieces], evaluator.batch_tokens):
        members = [pieces[position] for position in group]
        ids = torch.stack([evaluator.text.sequences[piece.sequence][: piece.length] for piece in members])
        ids = ids.to(evaluator.runner.device)
        batches.append(Batch(members, ids, *evaluator.runner.begin(ids)))
    return batches


def _head_gradients(
    evaluator: Evaluator, expected: Tensor, student: Tensor, ends: Ends, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gradients of both losses with respect to head inputs (tokens, width); to logits they are q - p and q - 1_y.

    `expected` is p, the teacher's distribution (tokens, vocabulary).
    """
    student = student.detach().requires_grad_()
    logits = evaluator.runner.logits(student)
    with torch.no_grad():
        q = logits.softmax(-1)
        toward_teacher = expected.neg_().add_(q)
        labels = _draw(q, generator)
        toward_labels = q.scatter_add_(-1, labels[:, None], q.new_full((len(q), 1), -1.0))
    gradients = _pull_back(logits, [get_gradient_edge(student)], toward_teacher, toward_labels)[0]
    ends.add_head(student.detach(), toward_teacher, toward_labels)
    return gradients


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One label for each row of (tokens, vocabulary), from one number of the CPU's generator for each token."""
    threshold = torch.rand(len(probabilities), 1, generator=generator).to(probabilities.device)
    cumulated = probabilities.cumsum(-1)
    labels = torch.searchsorted(cumulated, threshold * cumulated[:, -1:], right=True)
    return labels[:, 0].clamp_(max=probabilities.shape[-1] - 1)


def _pull_back(output: Tensor, inputs: Sequence[GradientEdge], kl: Tensor, nll: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each input, the gradients of the two losses, given those with respect to `output`; None for no influence.

    In this thread: autograd's own thread for a GPU warns of a missing context when it multiplies for the first time.
    """
    with torch.autograd.set_multithreading_enabled(False):
        first = torch.autograd.grad(output, inputs, kl, retain_graph=True, allow_unused=True)
        return list(zip(first, torch.autograd.grad(output, inputs, nll, allow_unused=True), strict=True))


def _rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(-1, gradient.shape[-1]).float()
