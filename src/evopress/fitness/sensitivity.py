"""How the divergence changes when one unit alone moves to another level, for every unit and level, without trying any.

Second-order expansion around a profile, the parent. With x_t a linear's input at token t, dW the change of its weight,
delta_t the gradient of the summed KL(teacher || student) with respect to the linear's output and delta'_t that of the
summed -log q(y_t), y_t drawn from the student's own distribution q:

    slope     = mean over t of  delta_t . dW x_t
    curvature = mean over t of (delta'_t . dW x_t)^2 / 2

The curvature is the Gauss-Newton (Fisher) term of the Hessian, positions taken as independent; it is what is left of
the second order where the student is near the teacher. For an embedding, dW x_t is how the first block's input moves;
for a head, how the logits do. Effects of several units add up only roughly, so the numbers choose where a search
starts; they do not replace it.

Cost: one pass of the teacher and one of the parent, then, from the last block to the first, one more pass of each
block, two backward passes to its outputs, and one product dW x for each other level. Memory: the inputs of all blocks,
the captured tensors of one block, and a few chunks x vocabulary of logits. Each level is loaded once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from evopress.assemble import EMBEDDING, HEAD, Choice
from evopress.fitness.evaluator import Evaluator, Progress
from evopress.fitness.sensitivity_ends import Ends, moments, others
from evopress.fitness.tokens import Piece
from evopress.models.batches import batch_indices
from evopress.models.capture import collect_inputs, collect_outputs
from evopress.models.describe import Linear
from evopress.models.runner import Contexts
from evopress.profile import Profile

Table = Mapping[str, Mapping[str, float]]
"""unit -> level -> number."""


@dataclass(frozen=True)
class Sensitivity:
    """The expansion of the mean KL, in nats a token, around `profile`: 0 for each unit's own level."""

    profile: Profile
    tokens: int
    slope: Table
    curvature: Table

    @property
    def cost(self) -> int:
        """What the measurement took, in tokens through a whole model: the same unit as a search's tokens."""
        levels = max(map(len, self.slope.values()))
        return self.tokens * (_PASSES + levels - 1)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives back an equal object."""
        return {
            "profile": dict(self.profile.items()),
            "tokens": self.tokens,
            "slope": {unit: dict(levels) for unit, levels in self.slope.items()},
            "curvature": {unit: dict(levels) for unit, levels in self.curvature.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """What `to_json` gave; KeyError when a part is missing."""
        return cls(Profile.of(data["profile"]), data["tokens"], data["slope"], data["curvature"])


_PASSES = 5  # teacher, parent, recomputation, two backward


def measure_sensitivity(
    evaluator: Evaluator,
    profile: Profile,
    levels: Mapping[str, Sequence[str]],
    tokens: int,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Sensitivity:
    """Expand the KL around `profile` on `tokens` tokens of the evaluator's text; `levels` names those of each unit.

    The tokens and the drawn labels depend on `seed` alone. Products dW x are in the model's dtype, everything that is
    summed in fp32 and float64. The model is left with some of the profile's levels. NotEnoughTokens when there are
    fewer tokens, ProfileError when the profile's units are not the model's.
    """
    pieces = evaluator.text.minibatch(tokens, random.Random(f"{seed}/sensitivity"))
    choices = evaluator.assembly.choices(profile)
    blocks = evaluator.runner.map.n_blocks
    way_back = 3 + max(map(len, levels.values()))  # in units of a block on the way there
    total = blocks * (1 + way_back)
    evaluator.require_teacher(pieces)
    evaluator.assembly.use(EMBEDDING, choices[EMBEDDING])
    batches = _begin(evaluator, pieces)
    for block in range(blocks):
        progress(block, total)
        evaluator.assembly.use(block, choices[block])
        for batch in batches:
            batch.forward(evaluator, block)
    generator = torch.Generator().manual_seed(seed)
    sums = {unit: {level: torch.zeros(2, dtype=torch.float64) for level in levels[unit]} for unit in profile.names}
    ends = Ends(evaluator, profile, sums)
    for batch in batches:
        batch.differentiate_head(evaluator, ends, choices[HEAD], generator)
    for block in reversed(range(blocks)):
        progress(blocks + (blocks - 1 - block) * way_back, total)
        evaluator.assembly.use(block, choices[block])
        captured = [batch.backward(evaluator, block) for batch in batches]
        for linear in evaluator.runner.map.of_block(block):
            signals = [signal.pop(linear.name) for signal in captured]
            _expand(evaluator, linear, profile[linear.name], sums[linear.name], signals)
    for batch in batches:
        ends.add_embedding(batch.ids, batch.kl, batch.nll)
    progress(total, total)
    slope = {unit: {level: float(both[0]) / tokens for level, both in own.items()} for unit, own in sums.items()}
    curvature = {
        unit: {level: float(both[1]) / (2 * tokens) for level, both in own.items()} for unit, own in sums.items()
    }
    return Sensitivity(profile, tokens, slope, curvature)


@dataclass(frozen=True)
class _Signal:
    """One linear on one batch: its input (tokens, in), and delta and delta' (tokens, out) in fp32."""

    input: Tensor
    kl: Tensor
    nll: Tensor


@dataclass
class _Batch:
    """Sequences of one length, `ids` (batch, length), on their way through the blocks and back.

    `hidden` is the state between blocks, `inputs` the inputs of the blocks passed so far; on the way back `kl` and
    `nll` are the gradients of the two summed losses with respect to the state, all (batch, length, width).
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
        head_input = evaluator.runner.finish(last)
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

    def backward(self, evaluator: Evaluator, block: int) -> dict[str, _Signal]:
        """One block back, run once more with gradients; returns what its linears saw."""
        runner = evaluator.runner
        inputs: dict[str, Tensor] = {}
        edges: dict[str, GradientEdge] = {}

        def keep(name: str, output: Tensor) -> None:
            edges[name] = get_gradient_edge(output)  # stays right when the block changes the output in place

        hidden = self.inputs.pop().detach().requires_grad_()
        with (
            collect_inputs(runner.model, runner.map, block, inputs.__setitem__),
            collect_outputs(runner.model, runner.map, block, keep),
        ):
            output = runner.block(block, hidden, self.contexts)
        wanted = [get_gradient_edge(hidden), *edges.values()]
        (self.kl, self.nll), *gradients = _pull_back(output, wanted, self.kl, self.nll)
        found = dict(zip(edges, gradients, strict=True))
        return {
            linear.name: _Signal(inputs[linear.input_group], *map(_rows, found[linear.name]))
            for linear in runner.map.of_block(block)
        }


def _begin(evaluator: Evaluator, pieces: Sequence[Piece]) -> list[_Batch]:
    batches = []
    for group in batch_indices([piece.length for piece in pieces], evaluator.batch_tokens):
        members = [pieces[position] for position in group]
        ids = torch.stack([evaluator.text.sequences[piece.sequence][: piece.length] for piece in members])
        ids = ids.to(evaluator.runner.device)
        batches.append(_Batch(members, ids, *evaluator.runner.begin(ids)))
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
    """For each input, the gradients of the two losses, given those with respect to `output`."""
    first = torch.autograd.grad(output, inputs, kl, retain_graph=True)
    return list(zip(first, torch.autograd.grad(output, inputs, nll), strict=True))


def _rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(-1, gradient.shape[-1]).float()


def _expand(
    evaluator: Evaluator, linear: Linear, own: str, sums: Mapping[str, Tensor], signals: Sequence[_Signal]
) -> None:
    """Add to level -> (sum of delta . dW x, sum of (delta' . dW x)^2) over all tokens."""
    parent = evaluator.assembly.tensor(linear.name, own)
    for level in others(sums, own):
        change = evaluator.assembly.tensor(linear.name, level) - parent
        change = change if linear.view.transposed else change.T
        for signal in signals:
            sums[level].add_(moments((signal.input @ change).float(), signal.kl, signal.nll))
