"""How the divergence changes when one unit alone moves to another level, for every unit and level, without trying any.

Second-order expansion around a profile, the parent. With x_t a linear's input at token t, dW the change of its weight,
delta_t the gradient of the summed KL(teacher || student) with respect to the linear's output and delta'_t that of the
summed -log q(y_t), y_t drawn from the student's own distribution q:

    slope     = mean over t of  delta_t . dW x_t
    curvature = mean over t of (delta'_t . dW x_t)^2 / 2

The curvature is the Gauss-Newton (Fisher) term of the Hessian, positions taken as independent; it is what is left of
the second order where the student is near the teacher. For an embedding, dW x_t is how the first block's input moves;
for a head, how the logits do.

Where levels are no weights (a sub-layer that is dropped or kept) the block that holds the unit is run again with each
of its other levels: dW x_t is then what the block's output moves by, and the deltas are those at the block's output. So
what the rest of the block makes of a dropped attention is exact, and only the blocks above are expanded. A unit that
spans two blocks has the sums of both.

Effects of several units add up only roughly, so the numbers choose where a search
starts; they do not replace it.

Cost: one pass of the teacher and one of the parent, then, from the last block to the first, one more pass of each
block, two backward passes to its outputs, and for each other level one product dW x, or one pass of the block.
Memory: the inputs of all blocks, the captured tensors of one block, and a few chunks x vocabulary of logits. Each level
is loaded once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evopress.core.profile import Profile
from evopress.fitness.evaluator import Evaluator, Progress
from evopress.fitness.sensitivity_batch import Batch, Signal, begin
from evopress.fitness.sensitivity_ends import Ends, moments, others
from evopress.models.assemble import EMBEDDING, HEAD, Choice
from evopress.models.describe import Linear
from evopress.text.tokens import Piece

Table = Mapping[str, Mapping[str, float]]
"""unit -> level -> number."""


@dataclass(frozen=True)
class Sensitivity:
    """The expansion of the mean KL, in nats a token, around `profile`: 0 for each unit's own level.

    `passes` is what the measurement took for each of its `tokens`, in passes of a whole model.
    """

    profile: Profile
    tokens: int
    passes: int
    slope: Table
    curvature: Table

    @property
    def cost(self) -> int:
        """What the measurement took, in tokens through a whole model: the same unit as a search's tokens."""
        return self.tokens * self.passes

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives back an equal object."""
        return {
            "profile": dict(self.profile.items()),
            "tokens": self.tokens,
            "passes": self.passes,
            "slope": {unit: dict(levels) for unit, levels in self.slope.items()},
            "curvature": {unit: dict(levels) for unit, levels in self.curvature.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """What `to_json` gave; KeyError when a part is missing."""
        return cls(Profile.of(data["profile"]), data["tokens"], data["passes"], data["slope"], data["curvature"])


_PASSES = 5  # teacher, parent, recomputation, two backward


def measure_sensitivity(
    evaluator: Evaluator,
    profile: Profile,
    levels: Mapping[str, Sequence[str]],
    tokens: int,
    *,
    by: Literal["weights", "blocks"] = "weights",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Sensitivity:
    """Expand the KL around `profile` on `tokens` tokens of the evaluator's text; `levels` names those of each unit.

    `by` says how a level's effect is found: from the change of its weight, or by running its block again.
    The tokens and the drawn labels depend on `seed` alone. Products dW x are in the model's dtype, everything that is
    summed in fp32 and float64. The model is left with some of the profile's levels. NotEnoughTokens when there are
    fewer tokens, ProfileError when the profile's units are not the model's.
    """
    pieces = evaluator.text.minibatch(tokens, random.Random(f"{seed}/sensitivity"))
    choices = evaluator.assembly.choices(profile)
    blocks = evaluator.runner.map.n_blocks
    passes = _PASSES + (_most(levels) if by == "weights" else _most_of_a_block(evaluator, levels))
    total = blocks * (passes - 1)  # in units of a block on the way there; the teacher is not shown
    evaluator.require_teacher(pieces)
    batches = _forward(evaluator, pieces, choices, lambda block: progress(block, total))
    generator = torch.Generator().manual_seed(seed)
    sums = {unit: {level: torch.zeros(2, dtype=torch.float64) for level in levels[unit]} for unit in profile.names}
    ends = Ends(evaluator, profile, sums)
    for batch in batches:
        batch.differentiate_head(evaluator, ends, choices[HEAD], generator)
    for block in reversed(range(blocks)):
        progress(blocks + (blocks - 1 - block) * (passes - 2), total)
        evaluator.assembly.use(block, choices[block])
        if by == "weights":
            _expand_weights(evaluator, block, profile, sums, batches)
        else:
            _expand_block(evaluator, block, choices[block], sums, batches)
    for batch in batches:
        ends.add_embedding(batch.ids, batch.kl, batch.nll)
    progress(total, total)
    return Sensitivity(profile, tokens, passes, _means(sums, 0, tokens), _means(sums, 1, 2 * tokens))


def _forward(
    evaluator: Evaluator,
    pieces: Sequence[Piece],
    choices: Sequence[Choice],
    progress: Callable[[int], None],
) -> list[Batch]:
    """The pieces in batches behind the last block, with what each block saw."""
    evaluator.assembly.use(EMBEDDING, choices[EMBEDDING])
    batches = begin(evaluator, pieces)
    for block in range(evaluator.runner.map.n_blocks):
        progress(block)
        evaluator.assembly.use(block, choices[block])
        for batch in batches:
            batch.forward(evaluator, block)
    return batches


def _means(sums: Mapping[str, Mapping[str, Tensor]], which: int, count: int) -> Table:
    """One of the two summed numbers of each level, divided by `count`."""
    return {unit: {level: float(both[which]) / count for level, both in own.items()} for unit, own in sums.items()}


def _most(levels: Mapping[str, Sequence[str]]) -> int:
    """Other levels of the unit that has most of them: products dW x of one linear are a pass for each."""
    return max(map(len, levels.values())) - 1


def _most_of_a_block(evaluator: Evaluator, levels: Mapping[str, Sequence[str]]) -> int:
    """Other levels of all units of a block, in the mean over the blocks, rounded up."""
    blocks = evaluator.runner.map.n_blocks
    runs = sum(len(levels[unit]) - 1 for block in range(blocks) for unit in evaluator.assembly.names(block))
    return math.ceil(runs / blocks)


def _expand_weights(
    evaluator: Evaluator,
    block: int,
    profile: Profile,
    sums: Mapping[str, Mapping[str, Tensor]],
    batches: Sequence[Batch],
) -> None:
    """Move the batches one block back and add what its linears' levels would change."""
    linears = evaluator.runner.map.of_block(block)
    captured = [batch.backward(evaluator, block, linears) for batch in batches]
    for linear in linears:
        signals = [signal.pop(linear.name) for signal in captured]
        _expand(evaluator, linear, profile[linear.name], sums[linear.name], signals)


def _expand_block(
    evaluator: Evaluator,
    block: int,
    choice: Choice,
    sums: Mapping[str, Mapping[str, Tensor]],
    batches: Sequence[Batch],
) -> None:
    """Add what the levels of the block's units would change at its output, then move the batches one block back."""
    for place, unit in enumerate(evaluator.assembly.names(block)):
        for level in others(sums[unit], str(choice[place])):
            evaluator.assembly.use(block, (*choice[:place], level, *choice[place + 1 :]))
            for batch in batches:
                sums[unit][level].add_(batch.moved(evaluator, block))
    evaluator.assembly.use(block, choice)
    for batch in batches:
        batch.backward(evaluator, block)


def _expand(
    evaluator: Evaluator, linear: Linear, own: str, sums: Mapping[str, Tensor], signals: Sequence[Signal]
) -> None:
    """Add to level -> (sum of delta . dW x, sum of (delta' . dW x)^2) over all tokens."""
    parent = evaluator.assembly.tensor(linear.name, own)
    for level in others(sums, own):
        change = evaluator.assembly.tensor(linear.name, level) - parent
        change = change if linear.view.transposed else change.T
        for signal in signals:
            sums[level].add_(moments((signal.input @ change).float(), signal.kl, signal.nll))
