"""The step `polish` of a run: learn the levels of the profile that was found, and keep what helps.

    sweep    calibration text, made again for the inputs that the profile gives   -> polished/sweep/
    blocks   learned block after block                                            -> polished/blocks/
    model    learned end to end                                                   -> polished/model/

What is learned from is more text than Hessians need: calibration and search text, and what comes behind. Text behind
that is only watched: its divergence decides after each phase whether the phase counts; where none does, polish.json
says so and the run goes on with the levels of the database, which is never changed. A polish that was interrupted goes
on at its first missing block or epoch, to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evopress.core.polish_record import Phase, PolishRecord, read_record, summary, write_record
from evopress.core.profile import DENSE, Profile
from evopress.errors import ConfigError, NotEnoughTokens, RunMismatch
from evopress.levels.packed import Packed
from evopress.models import Linear
from evopress.models.assemble import EMBEDDING, HEAD, Assembly
from evopress.models.memory import polish_memory, require_memory
from evopress.polish.blocks import Forms, Outcome, Rates, polish_block
from evopress.polish.estimate import estimate
from evopress.polish.kept import Kept, Levels
from evopress.polish.learnable import learnable
from evopress.polish.model import Learning, ModelRates, Student, divergence, learn_epochs, teacher_inputs
from evopress.polish.shelf import Shelf, read_state, write_state
from evopress.polish.sweep import sweep_again
from evopress.polish.text import Pass, Text
from evopress.settings.config import nothing_to_learn, sweeps
from evopress.settings.sections import PolishSection
from evopress.steps.workspace import Workspace
from evopress.text.tokens import Tokens

Watched = tuple[Text, list[torch.Tensor]]
"""A text and the teacher's head inputs on it."""


def polish_levels(workspace: Workspace, section: PolishSection, profile: Profile, directory: Path) -> PolishRecord:
    """Learn the levels of a profile as `section` says, into `directory`, or go on learning; nothing where it is done.

    Raises ConfigError for levels in which nothing can be learned, NotEnoughTokens for search text that leaves none to
    learn from or to watch, RunMismatch for a directory with what was polished otherwise, ResourceError for too little
    memory.
    """
    if why := nothing_to_learn(workspace.config.compression):
        raise ConfigError(f"--polish {section.polish} cannot be done: {why}; leave it out")
    text, watched = _text(workspace, section)
    wanted = _settings(workspace, section, profile, text)
    known = read_record(directory)
    if known is not None and known.settings != wanted:
        differs = [
            f"{key}: {known.settings.get(key)} -> {wanted[key]}"
            for key in wanted
            if known.settings.get(key) != wanted[key]
        ]
        raise RunMismatch(f"{directory} was made with other settings ({'; '.join(differs)}); delete it to polish again")
    if known is not None and known.done:
        return known
    needs = polish_memory(workspace.shapes, text.total, section.polish_batch)
    require_memory(needs, workspace.free_memory, "the polish")
    directory.mkdir(exist_ok=True)
    record = PolishRecord(wanted, dict(profile.items()))
    write_record(directory, record)
    with workspace.assembly() as assembly:
        record = _Polish(workspace, section, profile, directory, text, watched, assembly).run(record)
    write_record(directory, record)
    workspace.observer.note(summary(record))
    return record


def _text(workspace: Workspace, section: PolishSection) -> tuple[Tokens, int]:
    """What is learned from and at its end what is watched, and how much that is: of a short text a quarter."""
    text = workspace.text_to_learn(section.polish_tokens + section.polish_watched)
    if len(text.sequences) < 2:
        raise NotEnoughTokens(
            f"{text.source} has one sequence of {text.total} tokens for a polish, which leaves nothing to watch; give "
            "more text or --polish none"
        )
    watched = min(section.polish_watched, text.total // 4)
    if text.total < section.polish_tokens + section.polish_watched:
        workspace.observer.note(
            f"polish: {text.source} has {text.total} tokens of the {section.polish_tokens} to learn from and "
            f"{section.polish_watched} to watch; {watched} of them are watched"
        )
    return text, watched


def _settings(workspace: Workspace, section: PolishSection, profile: Profile, text: Tokens) -> dict[str, Any]:
    """All that a polish depends on, as JSON values: settings by name, and digests of the rest."""
    units = {} if workspace.family.method is None else workspace.database.manifest.units
    levels = {name: units[name].sha256 for name, level in profile.items() if name in units and level != DENSE}
    digests = {"profile": dict(profile.items()), "levels": levels}
    return {
        **section.model_dump(exclude={"polish_uniform"}),
        "seed": workspace.config.search.seed,
        "calibration": workspace.splits.calibration.fingerprint,
        "text": text.fingerprint,
        **{name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in digests.items()},
    }


@dataclass
class _Polish:
    """One run of the step."""

    workspace: Workspace
    section: PolishSection
    profile: Profile
    directory: Path
    tokens: Tokens
    watched: int
    assembly: Assembly

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
            outcomes = tuple((found[block].before, found[block].after) for block in sorted(found))
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
        """The same in the model's order."""
        map = self.workspace.map
        return [own for block in range(map.n_blocks) for own in map.of_block(block) if own.name in self.levels]

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

    def _student(self, database: Levels) -> Student:
        runner, choices = self.workspace.runner, self.assembly.choices(self.profile)
        rows = max(16, self.workspace.head_bytes // (4 * runner.vocabulary))
        ends = {place: choices[place] for place in (EMBEDDING, HEAD)}
        return Student(runner, self.packed(database, self.linears), self.transposed, self.assembly, ends, rows)

    def _divergence(self, database: Levels) -> float:
        text, teacher = self._watched
        with self._dropped(range(self.workspace.map.n_blocks)):
            return divergence(self._student(database), text, teacher)

    @contextmanager
    def _dropped(self, blocks: Iterable[int]) -> Iterator[None]:
        """While active, what the profile drops of these blocks is dropped; weights are the caller's matter."""
        choices = [] if self._stored else self.assembly.choices(self.profile)
        own = [block for block in blocks if block < len(choices)]
        for block in own:
            self.assembly.use(block, choices[block])
        try:
            yield
        finally:
            for block in own:
                self.assembly.use(block)

    @property
    def _sweeps(self) -> bool:
        """Whether the levels are made again. Without error feedback, or where all blocks saw these very levels when the
        database was made, they would be the same.
        """
        method = self.workspace.family.method
        if self.section.polish == "model" or method is None or not sweeps(self.workspace.config.compression):
            return False
        levels = self.profile.items()
        return any(method.seen(unit) != (None if level == DENSE else level) for unit, level in levels)

    def _blocks(self, shelf: Shelf, base: Levels) -> dict[int, Outcome]:
        """Learn all blocks that are not on the shelf yet, from the levels of `base`."""
        runner, observer, section = self.workspace.runner, self.workspace.observer, self.section
        text = self._split[0]
        rates = Rates(epochs=section.polish_epochs, codes=section.polish_code_rate, floats=section.polish_scale_rate,
                      seed=self.workspace.config.search.seed)  # fmt: skip
        dense = text.begin()
        self.assembly.use(EMBEDDING, self.assembly.choices(self.profile)[EMBEDDING])
        own = text.begin()
        self.assembly.use(EMBEDDING)
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
        return shelf.outcomes()

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
        for block in range(self.workspace.map.n_blocks):
            if not shelf.has(self.of_block(block)):
                shelf.write(block, packed)
        return learning.watched[1:]
