"""Learning what a compressed model stores in floating point end to end, on the divergence from the dense model.

Codes and masks are fixed; scales (or kept values) follow the gradient of the real KL(teacher || student), the second
phase of EfficientQAT (arXiv 2407.11062). After each epoch the KL of a text that is never learned from decides whether
the state is kept. Each block runs once more when its gradient is needed, from its input, and its dense weights are made
when it runs: so live are the packed levels, one block's dense weights and graph, the hidden states between blocks of
one batch, and a few chunks x vocabulary of logits. An epoch costs four to five passes of the model over the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from evopress.fitness.divergence import KL
from evopress.levels.packed import Packed
from evopress.models.assemble import EMBEDDING, HEAD, Assembly, Choice
from evopress.models.runner import Runner
from evopress.polish.blocks import Forms, linear_decay, make_optimizer
from evopress.polish.learnable import learnable
from evopress.polish.text import Part, Text, epochs, pick


@dataclass(frozen=True, kw_only=True)
class ModelRates:
    """How a model is learned: epochs over the text, and the largest step, in shares of a scale."""

    epochs: int
    floats: float
    seed: int = 0


@dataclass
class Student:
    """A compressed model: `levels` by their parameters' names, and `floats`, what is learned of each of them.

    Embedding and head have the levels of `ends` (place -> choice), which are not learned.
    """

    runner: Runner
    levels: Mapping[str, Packed]
    transposed: frozenset[str]
    assembly: Assembly
    ends: Mapping[int, Choice]
    head_rows: int

    def __post_init__(self) -> None:
        prefix = f"{self.runner.map.blocks}."
        self.floats: dict[str, Tensor] = {}
        self._names: list[list[str]] = [[] for _ in range(self.runner.map.n_blocks)]
        for name, packed in self.levels.items():
            form = learnable(packed)
            if form is not None:
                self.floats[name] = form.floats
                self._names[int(name.removeprefix(prefix).partition(".")[0])].append(name)

    def forms(self, block: int) -> Forms:
        """The weights of a block, with the floats of now."""
        made = {}
        for name in self._names[block]:
            form = learnable(self.levels[name])
            assert form is not None  # `floats` has only those
            form.floats = self.floats[name]
            made[name] = form
        return Forms(made, self.transposed)

    def packed(self) -> dict[str, Packed]:
        """All levels, as they are now."""
        blocks = range(self.runner.map.n_blocks)
        learned = {name: form.packed() for block in blocks for name, form in self.forms(block).learned.items()}
        return {**self.levels, **learned}

    def confine(self) -> None:
        """Bring all floats back into the range of their formats."""
        for block in range(self.runner.map.n_blocks):
            for form in self.forms(block).learned.values():
                form.confine()

    @contextmanager
    def at(self, place: int) -> Iterator[None]:
        """While active, the embedding or the head has its level; then the dense weight again."""
        self.assembly.use(place, self.ends[place])
        try:
            yield
        finally:
            self.assembly.use(place)

    def head_input(self, text: Text, part: Part) -> Tensor:
        """(batch, length, width of the head), differentiable in the floats where grad mode is on."""
        with self.at(EMBEDDING):
            hidden, contexts = self.runner.begin(text.tokens_of(part))

        def run(block: int, hidden: Tensor) -> Tensor:
            return self.runner.block(block, hidden, contexts, self.forms(block).weights(self.runner.model.dtype))

        for block in range(self.runner.map.n_blocks):
            again = torch.is_grad_enabled()
            hidden = checkpoint(run, block, hidden, use_reentrant=False) if again else run(block, hidden)
        return self.runner.finish(hidden, contexts)


def teacher_inputs(text: Text) -> list[Tensor]:
    """The dense model's head inputs, by length."""
    runner, hidden = text.runner, text.begin()
    for block in range(runner.map.n_blocks):
        hidden = text.through(hidden, lambda state, contexts, block=block: runner.block(block, state, contexts))  # type: ignore[misc]
    return text.through(hidden, runner.finish)


def divergence(student: Student, text: Text, teacher: Sequence[Tensor]) -> float:
    """The mean KL of a token over the whole text; `teacher` is `teacher_inputs` of it."""
    with torch.no_grad():
        total = sum(_head(student, student.head_input(text, part), pick(teacher, part))[0] for part in text.parts())
    return total / text.tokens


def gradient_step(student: Student, text: Text, part: Part, teacher: Sequence[Tensor]) -> float:
    """Add the gradient of the part's mean KL to the floats'; returns that mean."""
    output = student.head_input(text, part)
    tokens = output.shape[0] * output.shape[1]
    total, gradient = _head(student, output, pick(teacher, part), backward=True)
    torch.autograd.backward(output, gradient / tokens, inputs=list(student.floats.values()))
    return total / tokens


def _head(student: Student, output: Tensor, teacher: Tensor, backward: bool = False) -> tuple[float, Tensor]:
    """The summed KL of head inputs (batch, length, width), and its gradient with respect to them (zeros if not asked).

    To logits the gradient is q - p, so no graph of a divergence is needed; tokens go in chunks.
    """
    measure, flat = KL(), output.detach().flatten(0, 1)
    gradient, total = torch.zeros_like(flat), 0.0
    for start in range(0, len(flat), student.head_rows):
        rows = slice(start, start + student.head_rows)
        chunk = flat[rows].requires_grad_(backward)
        with torch.no_grad():
            shared = measure.prepare(student.runner.logits(teacher.flatten(0, 1)[rows]), torch.empty(0))
        with student.at(HEAD):
            logits = student.runner.logits(chunk)
            if backward:
                toward = logits.detach().softmax(-1).sub_(shared[1])
                gradient[rows] = torch.autograd.grad(logits, chunk, toward)[0]
        total += float(measure.losses(shared, logits.detach().clone()).sum(dtype=torch.float64))
    return total, gradient.view_as(output)


@dataclass
class Learning:
    """The state of learning a model between two epochs: everything that a resumed one needs.

    `watched` are the divergences on the watched text: before, then after each epoch; `best` the floats of the least.
    """

    student: Student
    optimizer: torch.optim.Adam
    watched: list[float]
    best: dict[str, Tensor]

    @classmethod
    def start(cls, student: Student, rates: ModelRates, before: float) -> Learning:
        """Nothing has been learned yet; `before` is the divergence on the watched text."""
        optimizer = make_optimizer([(list(student.floats.values()), rates.floats)])
        return cls(student, optimizer, [before], _copied(student.floats))

    def tensors(self) -> dict[str, Tensor]:
        """All of the state but `watched`, by name."""
        made = {f"floats.{name}": tensor for name, tensor in self.student.floats.items()}
        made |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            made |= {f"adam.{place}.{key}": value for key, value in moments.items()}
        return {name: tensor.detach() for name, tensor in made.items()}

    def restore(self, tensors: Mapping[str, Tensor], watched: Sequence[float]) -> None:
        """The inverse of `tensors`."""
        self.watched = list(watched)
        known = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "floats":
                self.student.floats[rest].data.copy_(tensor)
            elif kind == "best":
                self.best[rest] = tensor
            else:
                place, _, key = rest.partition(".")
                known["state"].setdefault(int(place), {})[key] = tensor
        self.optimizer.load_state_dict(known)


def learn_epochs(
    learning: Learning, text: Text, teacher: Sequence[Tensor], watched: tuple[Text, Sequence[Tensor]], rates: ModelRates
) -> Iterator[int]:
    """Go on learning from `text`; yields the number of epochs done after each, when the state may be saved."""
    student, per_epoch = learning.student, len(text.parts())
    done = len(learning.watched) - 1
    schedule = linear_decay(learning.optimizer, rates.epochs * per_epoch, done * per_epoch)
    for epoch, parts in epochs(text, rates.epochs, rates.seed):
        if epoch < done:
            continue
        for part in parts:
            learning.optimizer.zero_grad()
            gradient_step(student, text, part, teacher)
            learning.optimizer.step()
            schedule.step()
            student.confine()
        now = divergence(student, *watched)
        if now < min(learning.watched):
            learning.best = _copied(student.floats)
        learning.watched.append(now)
        yield epoch + 1


def _copied(floats: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in floats.items()}
