"""Learning what a compressed model stores in floating point end to end, on the divergence from the dense model.

Codes and masks are fixed; scales (or kept values) follow the gradient of the real KL(teacher || student), the second
phase of EfficientQAT (arXiv 2407.11062). After each epoch the KL of a text that is never learned from decides whether
the state is kept. Each block runs once more when its gradient is needed, from its input, and its dense weights are made
when it runs: so live are the packed levels, one block's dense weights and graph, the hidden states between blocks of
one batch, and a few chunks x vocabulary of logits. An epoch costs four to five passes of the model over the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evopress.fitness.divergence import KL
from evopress.levels.packed import Packed
from evopress.models.assemble import EMBEDDING, HEAD
from evopress.models.describe import Linear
from evopress.models.runner import Contexts, Runner
from evopress.models.weights import replaced
from evopress.polish.blocks import Forms, linear_decay, make_optimizer
from evopress.polish.learnable import Learnable, learnable
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

    `ends` says which linear acts as the embedding (EMBEDDING) and as the head (HEAD), where these have levels, too: one
    weight may be both. Their dense weights are made once for each step, and `gradients` collects those of both uses.
    Of `whole`, forms by name, the codes are learned, too.
    """

    runner: Runner
    levels: Mapping[str, Packed]
    transposed: frozenset[str]
    ends: Mapping[int, Linear]
    head_rows: int
    whole: Mapping[str, Learnable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prefix = f"{self.runner.map.blocks}."
        self.floats: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.outer = {linear.view.parameter: linear for linear in self.ends.values()}
        self._dense: dict[str, Tensor] = {}
        self._names: list[list[str]] = [[] for _ in range(self.runner.map.n_blocks)]
        for name, packed in self.levels.items():
            form = self.whole.get(name) or learnable(packed)
            if form is not None:
                self.floats[name] = form.floats
                if name not in self.outer:
                    self._names[int(name.removeprefix(prefix).partition(".")[0])].append(name)

    def forms(self, names: Iterable[str]) -> Forms:
        """Weights by their parameters' names, with the floats of now."""
        made = {}
        for name in names:
            form = self.whole.get(name) or learnable(self.levels[name])
            assert form is not None  # `floats` has only those
            form.floats = self.floats[name]
            made[name] = form
        return Forms(made, self.transposed)

    def packed(self) -> dict[str, Packed]:
        """All levels, as they are now."""
        return {**self.levels, **{name: self.forms([name]).learned[name].packed() for name in self.floats}}

    def confine(self) -> None:
        """Bring all floats back into the range of their formats, after they have moved."""
        self._dense.clear()
        for name in self.floats:
            self.forms([name]).learned[name].confine()

    @contextmanager
    def at(self, place: int, *, learning: bool = False) -> Iterator[nn.Parameter | None]:
        """While active, the embedding or the head has its level; then the dense weight again.

        Gives the parameter where its floats are to be learned; it records gradients only meanwhile.
        """
        linear = self.ends.get(place)
        if linear is None:
            yield None
            return
        name, model = linear.view.parameter, self.runner.model
        if name not in self._dense:
            level = self.forms([name]).learned[name] if name in self.floats else None
            dtype = model.get_parameter(name).dtype
            with torch.no_grad():
                self._dense[name] = self.levels[name].dequantize(dtype) if level is None else level.weight(dtype)
        parameter = model.get_parameter(name) if learning and name in self.floats else None
        with replaced(model, {linear.view: self._dense[name]}):
            if parameter is not None:
                parameter.requires_grad_(True)
            try:
                yield parameter
            finally:
                if parameter is not None:
                    parameter.requires_grad_(False)

    def collect(self, place: int, gradient: Tensor) -> None:
        """Add to the gradient of the weight at one of the `ends`."""
        name = self.ends[place].view.parameter
        if name in self.gradients:
            self.gradients[name] += gradient
        else:
            self.gradients[name] = gradient.float()

    def pass_on(self) -> None:
        """Give the collected gradients to the numbers that the weights are made of."""
        for name, gradient in self.gradients.items():
            forms = self.forms([name])
            weight = forms.learned[name].weight(torch.float32)
            torch.autograd.backward(weight, gradient, inputs=forms.moving())
        self.gradients.clear()

    def through(self, hidden: Tensor, contexts: Contexts) -> Tensor:
        """The first block's input -> (batch, length, width of the head), differentiable where grad mode is on."""

        def run(block: int, hidden: Tensor) -> Tensor:
            weights = self.forms(self._names[block]).weights(self.runner.model.dtype)
            return self.runner.block(block, hidden, contexts, weights)

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
    total = 0.0
    with torch.no_grad():
        for part in text.parts():
            with student.at(EMBEDDING):
                hidden, contexts = student.runner.begin(text.tokens_of(part))
            total += head_divergence(student, student.through(hidden, contexts), pick(teacher, part))[0]
    return total / text.tokens


def gradient_step(student: Student, text: Text, part: Part, teacher: Sequence[Tensor]) -> float:
    """Add the gradient of the part's mean KL to the floats'; returns that mean."""
    with student.at(EMBEDDING, learning=True) as embedding:
        hidden, contexts = student.runner.begin(text.tokens_of(part), gradients=embedding is not None)
    entered = hidden.detach().requires_grad_(embedding is not None)
    output = student.through(entered, contexts)
    tokens = output.shape[0] * output.shape[1]
    total, gradient = head_divergence(student, output, pick(teacher, part), backward=True)
    inner = [floats for name, floats in student.floats.items() if name not in student.outer]
    torch.autograd.backward(output, gradient / tokens, inputs=[*inner, *([] if embedding is None else [entered])])
    with student.at(EMBEDDING, learning=True) as embedding:
        if embedding is not None:
            student.collect(EMBEDDING, torch.autograd.grad(hidden, embedding, entered.grad)[0])
    student.pass_on()
    return total / tokens


def head_divergence(student: Student, output: Tensor, teacher: Tensor, backward: bool = False) -> tuple[float, Tensor]:
    """The summed KL of head inputs (batch, length, width), and its gradient with respect to them (zeros if not asked).

    To logits the gradient is q - p, so no graph of a divergence is needed; tokens go in chunks. The gradient of the
    mean with respect to a head that learns is collected.
    """
    measure, flat = KL(), output.detach().flatten(0, 1)
    gradient, total = torch.zeros_like(flat), 0.0
    for start in range(0, len(flat), student.head_rows):
        rows = slice(start, start + student.head_rows)
        chunk = flat[rows].requires_grad_(backward)
        with torch.no_grad():
            shared = measure.prepare(student.runner.logits(teacher.flatten(0, 1)[rows]), torch.empty(0))
        with student.at(HEAD, learning=backward) as head:
            logits = student.runner.logits(chunk)
            if backward:
                toward = logits.detach().softmax(-1).sub_(shared[1])
                learned = [chunk] if head is None else [chunk, head]
                gradient[rows], *of_head = torch.autograd.grad(logits, learned, toward)
                if of_head:
                    student.collect(HEAD, of_head[0] / len(flat))
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
