"""The phases of a polish, one after the other: swept again, learned block by block, learned end to end.

Each begins with the best levels so far, and its divergence on the watched text decides whether it counts. What they
hold is said in `evopress.polish.blocks` and `evopress.polish.model`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from evopress.core.polish_record import Phase, PolishRecord
from evopress.core.profile import DENSE, Profile
from evopress.levels.packed import Packed
from evopress.models import Linear, SubLayer, dropped
from evopress.models.assemble import EMBEDDING, HEAD
from evopress.models.ends import head_unit
from evopress.polish.blocks import Forms, Outcome, Rates, polish_block
from evopress.polish.estimate import estimate
from evopress.polish.head import polish_head
from evopress.polish.kept import Kept, Levels
from evopress.polish.learnable import learnable
from evopress.polish.model import Learning, ModelRates, Student, divergence, learn_epochs, teacher_inputs
from evopress.polish.shelf import Shelf, read_state, write_state
from evopress.polish.sweep import sweep_again
from evopress.polish.text import Pass, Text
from evopress.settings.config import sweeps
from evopress.settings.sections import PolishSection
from evopress.steps.workspace import Workspace
from evopress.text.tokens import Tokens

Watched = tuple[Text, list[torch.Tensor]]
"""A text and the teacher's head inputs on it."""


@dataclass
class Phases:
    """One run of the step on a profile, into `directory`; without `sweep` the levels are not made again first."""

    workspace: Workspace
    section: PolishSection
    profile: Profile
    directory: Path
    tokens: Tokens
    watched: int
    sweep: bool

    def run(self, record: PolishRecord) -> PolishRecord:
        """Both phases, as far as they are asked for, and what they came to."""
        runner, calibration = self.workspace.runner, self.workspace.splits.calibration.total if self._sweeps else 0
        seconds = estimate(runner, self.section, calibration, *self._split)
        self.workspace.observer.note(f"polish: {self.section.polish}, about {max(1, round(seconds / 60))} min")
        kept = Kept(runner, {own.name: own for own in self.linears})
        base: Levels = self.workspace.database if self._stored else kept
        watched = {"unpolished": self._divergence(base)}
        outcomes: tuple[tuple[float, float], ...] = ()
        result: Phase | None = None
        directory = self.directory
        if self._sweeps:
            made = sweep_again(self.workspace, dict(self.profile.items()), directory / "sweep")
            watched["sweep"] = self._divergence(made)
            if watched["sweep"] < watched["unpolished"]:
                result, base = "sweep", made
        if self.section.polish in ("blocks", "both"):
            shelf = Shelf(directory / "blocks", self.linears, self.levels)
            found = self._blocks(shelf, base)
            inside = sorted(block for block in found if block < self.workspace.map.n_blocks)
            outcomes = tuple((found[block].before, found[block].after) for block in inside)
            watched["blocks"] = self._divergence(shelf.database)
            if watched["blocks"] < min(value for name, value in watched.items() if name != "blocks"):
                result, base = "blocks", shelf.database
        if self.section.polish in ("model", "both"):
            history = self._model(base, min(watched.values()))
            watched |= {f"model {epoch}": value for epoch, value in enumerate(history, 1)}
            if history and min(history) < min(value for name, value in watched.items() if not name.startswith("model")):
                result = "model"
        return replace(record, done=True, result=result, blocks=outcomes, watched=watched)

    @cached_property
    def levels(self) -> dict[str, str]:
        """The linears that learn, by name, and their levels."""
        return self.workspace.family.learns(self.profile)

    @cached_property
    def linears(self) -> list[Linear]:
        """The same in the model's order: the embedding, those of the blocks, the head."""
        return [linear for linear in self.workspace.map.linears if linear.name in self.levels]

    @cached_property
    def _gone(self) -> tuple[SubLayer, ...]:
        """What the profile drops."""
        return self.workspace.family.dropped(self.profile)

    @property
    def _stored(self) -> bool:
        """Whether a database has what is learned from; for depth it is the model itself."""
        return self.workspace.family.method is not None

    @property
    def transposed(self) -> frozenset[str]:
        """Their parameters that are stored as (in, out)."""
        return frozenset(linear.view.parameter for linear in self.linears if linear.view.transposed)

    def of_block(self, block: int) -> list[Linear]:
        """Those of a block."""
        return [linear for linear in self.linears if linear.block == block]

    def packed(self, database: Levels, linears: list[Linear]) -> dict[str, Packed]:
        """Parameter -> its level as a database has it, on the device."""
        device = self.workspace.runner.device
        return {own.view.parameter: database.load(own.name, self.levels[own.name]).to(device) for own in linears}

    @cached_property
    def _split(self) -> tuple[Text, Text]:
        """The text to learn from, and the watched one: its last sequences."""
        sequences, watched, tokens = list(self.tokens.sequences), [], 0
        while len(sequences) > 1 and tokens < self.watched:
            watched.append(sequences.pop())
            tokens += len(watched[-1])
        runner, batch = self.workspace.runner, self.section.polish_batch
        return Text.of(runner, sequences, batch), Text.of(runner, watched, batch)

    @cached_property
    def _watched(self) -> Watched:
        text = self._split[1]
        return text, teacher_inputs(text)

    @property
    def _own_head(self) -> Linear | None:
        """The head, where it is a unit that is not the embedding, too."""
        return next((own for own in self.linears if own.block == self.workspace.map.n_blocks), None)

    @property
    def _head_rows(self) -> int:
        return max(16, self.workspace.head_bytes // (4 * self.workspace.runner.vocabulary))

    def _student(self, database: Levels) -> Student:
        runner, map = self.workspace.runner, self.workspace.map
        own = {EMBEDDING: map.linears[0] if map.linears[0].block < 0 else None, HEAD: head_unit(runner.model, map)}
        ends = {place: linear for place, linear in own.items() if linear in self.linears and linear is not None}
        return Student(runner, self.packed(database, self.linears), self.transposed, ends, self._head_rows)

    def _divergence(self, database: Levels) -> float:
        text, teacher = self._watched
        with self._dropped(range(self.workspace.map.n_blocks)):
            return divergence(self._student(database), text, teacher)

    @contextmanager
    def _dropped(self, blocks: Container[int]) -> Iterator[None]:
        """While active, what the profile drops of these blocks is dropped; weights are the caller's matter."""
        own = [sublayer for sublayer in self._gone if sublayer.block in blocks]
        with dropped(self.workspace.loaded.model, own):
            yield

    @property
    def _sweeps(self) -> bool:
        """Whether the levels are made again. Without error feedback, or where all blocks saw these very levels when the
        database was made, they would be the same; a build knows no dropped parts.
        """
        method = self.workspace.family.method
        possible = self.sweep and self.section.polish != "model" and sweeps(self.workspace.config.compression)
        if method is None or not possible or self._gone:
            return False
        levels = self.profile.items()
        return any(method.seen(unit) != (None if level == DENSE else level) for unit, level in levels)

    def _blocks(self, shelf: Shelf, base: Levels) -> dict[int, Outcome]:
        """Learn all blocks that are not on the shelf yet, from the levels of `base`."""
        runner, observer, section = self.workspace.runner, self.workspace.observer, self.section
        text = self._split[0]
        rates = Rates(epochs=section.polish_epochs, codes=section.polish_code_rate, floats=section.polish_scale_rate,
                      seed=self.workspace.config.search.seed)  # fmt: skip
        ends = [linear for linear in self.linears if linear.block not in range(runner.map.n_blocks)]
        for linear in ends:
            if linear != self._own_head and not shelf.has([linear]):  # an embedding learns end to end
                shelf.write(linear.block, self.packed(base, [linear]))
        dense = text.begin()
        with self._student(base).at(EMBEDDING):
            own = text.begin()
        for block in range(runner.map.n_blocks):
            observer.progress("polish", block, runner.map.n_blocks, f"block {block}")
            linears = self.of_block(block)
            dense = text.through(dense, self._pass(block, {}))
            with self._dropped([block]):
                if not shelf.learned(block, linears):
                    levels = self.packed(base, linears)
                    forms = self._forms(linears, levels)
                    outcome = polish_block(text, block, forms, own, dense, rates)
                    shelf.write(block, levels | {name: form.packed() for name, form in forms.learned.items()}, outcome)
                own = text.through(own, self._pass(block, self.packed(shelf.database, linears)))
        observer.progress("polish", runner.map.n_blocks, runner.map.n_blocks, "blocks")
        if self._own_head is not None and not shelf.learned(runner.map.n_blocks, [self._own_head]):
            self._learn_head(self._own_head, shelf, base, rates, own, dense)
        return shelf.outcomes()

    def _learn_head(
        self, head: Linear, shelf: Shelf, base: Levels, rates: Rates, own: list[torch.Tensor], dense: list[torch.Tensor]
    ) -> None:
        """Learn a head of its own from the last block's outputs, compressed and dense."""
        text, finish, levels = self._split[0], self.workspace.runner.finish, self.packed(base, [head])
        [(name, packed)] = levels.items()
        forms = self._forms([head], levels)
        outcome = None
        if form := forms.learned.get(name):
            inputs, teacher = text.through(own, finish), text.through(dense, finish)
            outcome = polish_head(text, head, packed, form, inputs, teacher, rates, self._head_rows)
            self.workspace.observer.note(f"polish: the head's KL {outcome.before:.4g} -> {outcome.after:.4g}")
            packed = form.packed()
        shelf.write(head.block, {name: packed}, outcome or Outcome(0.0, 0.0))

    def _pass(self, block: int, levels: dict[str, Packed]) -> Pass:
        """A block with these levels; dense where there are none."""
        weights: dict[str, torch.Tensor] = {}
        for name, packed in levels.items():
            made = packed.dequantize(self.workspace.loaded.model.dtype)
            weights[name] = made.T if name in self.transposed else made
        return lambda state, contexts: self.workspace.runner.block(block, state, contexts, weights)

    def _forms(self, linears: list[Linear], levels: dict[str, Packed]) -> Forms:
        runner = self.workspace.runner
        made = {own.view.parameter: learnable(levels[own.view.parameter], runner.weight(own)) for own in linears}
        return Forms({name: form for name, form in made.items() if form is not None}, self.transposed)

    def _model(self, base: Levels, before: float) -> list[float]:
        """Learn end to end from the levels of `base`; the divergences on the watched text after each epoch."""
        directory, section = self.directory / "model", self.section
        text, student = self._split[0], self._student(base)
        rates = ModelRates(epochs=section.polish_model_epochs, floats=section.polish_model_rate,
                           seed=self.workspace.config.search.seed)  # fmt: skip
        learning = Learning.start(student, rates, before)
        if (known := read_state(directory)) is not None:
            learning.restore(*known)
        if len(learning.watched) <= rates.epochs:
            teacher, watched = teacher_inputs(text), self._watched
            with self._dropped(range(self.workspace.map.n_blocks)):
                for done in learn_epochs(learning, text, teacher, watched, rates):
                    write_state(directory, learning.tensors(), learning.watched)
                    now = f"epoch {done}, KL {learning.watched[-1]:.4g}"
                    self.workspace.observer.progress("polish", done, rates.epochs, now)
        for name, tensor in learning.best.items():
            student.floats[name].data.copy_(tensor)
        shelf, packed = Shelf(directory, self.linears, self.levels), student.packed()
        for block in dict.fromkeys(linear.block for linear in self.linears):
            if not shelf.has(self.of_block(block)):
                shelf.write(block, packed)
        return learning.watched[1:]
