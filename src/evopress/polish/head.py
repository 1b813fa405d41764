"""Learning codes and scales of a head of its own, on the divergence of the logits that it makes.

It is what a block is at the end of the model: its inputs are those of the compressed model, its target is what the
dense head makes of dense ones. A head that is the embedding's weight, too, is left to the learning end to end: its
codes cannot change behind blocks that have learned from what they embed. Costs four products with the head for each
epoch over the text, and two each time that its divergence is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evopress.levels.packed import Packed
from evopress.models.assemble import HEAD
from evopress.models.describe import Linear
from evopress.polish.blocks import Forms, Outcome, Rates, learn
from evopress.polish.learnable import Learnable
from evopress.polish.model import Student, head_divergence
from evopress.polish.text import Part, Text, pick


def polish_head(
    text: Text,
    head: Linear,
    packed: Packed,
    form: Learnable,
    inputs: Sequence[Tensor],
    teacher: Sequence[Tensor],
    rates: Rates,
    rows: int,
) -> Outcome:
    """Learn the `form` of the head's level `packed` on head inputs by length, `rows` tokens at a time.

    Returns the mean KL of a token before and after; keeps the best that was seen, the start among it.
    """
    name = head.view.parameter
    student = Student(text.runner, {name: packed}, frozenset(), {HEAD: head}, rows, {name: form})

    def error() -> float:
        student.confine()
        parts = text.parts()
        return sum(head_divergence(student, pick(inputs, p), pick(teacher, p))[0] for p in parts) / text.tokens

    def backward(part: Part) -> None:
        student.confine()
        head_divergence(student, pick(inputs, part), pick(teacher, part), backward=True)
        student.pass_on()

    return learn(text, Forms({name: form}), rates, head.block, error, backward)
