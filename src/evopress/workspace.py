"""What the steps of a run share: model, map, text and database, each loaded, and checked, when first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial

import torch

from evopress.applications import Application, make_application
from evopress.applications.application import Tensors
from evopress.assemble import Assembly, Load, no_levels
from evopress.config import Config
from evopress.database.build import stored_bits
from evopress.database.methods import Method, corrects
from evopress.database.polished import polished_levels
from evopress.database.store import Database
from evopress.fitness.bank import Bank
from evopress.fitness.divergence import Measure, make_measure
from evopress.fitness.evaluator import AT_ONCE, HEAD_BYTES, Evaluator
from evopress.fitness.loading import load_splits
from evopress.fitness.tokens import Splits, Tokens
from evopress.models import (
    Granularity,
    Influence,
    LoadedModel,
    ModelMap,
    Runner,
    SubLayer,
    check_finite,
    choose_device,
    choose_dtype,
    find_droppable,
    fingerprint,
    load_model,
    measure_influence,
)
from evopress.models.bos import bos_text, find_bos
from evopress.models.checks import require_known_tokens
from evopress.models.coverage import compressible, coverage
from evopress.models.ends import with_ends
from evopress.models.load import note_unused, require_positions
from evopress.observer import Observer
from evopress.plan import Shapes, available_memory, build_memory, measure_shapes, require_memory, search_memory
from evopress.profile import DENSE, Profile
from evopress.run import RunDirectory
from evopress.search.presets import depth_generations
from evopress.space import SearchSpace

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens in one pass of a block: enough to keep the device's matrix units busy."""
INFLUENCE_TOKENS = 8192
"""Means over tokens of one number a token: a few thousand tell the order of blocks."""

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Workspace:
    """A run directory with its model, text and database. `fitness` replaces the configured measure by a function."""

    def __init__(self, run: RunDirectory, observer: Observer, fitness: LossFunction | None = None) -> None:
        self.run, self.observer, self.fitness = run, observer, fitness
        self._polished: dict[Profile, Database] = {}

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.run.config

    @cached_property
    def device(self) -> str:
        """Where the model runs."""
        return choose_device(self.config.model.device)

    @cached_property
    def loaded(self) -> LoadedModel:
        """Model and tokenizer, checked for NaN."""
        section = self.config.model
        dtype = choose_dtype(self.device) if section.dtype == "auto" else getattr(torch, section.dtype)
        self.observer.note(f"loading {section.source} as {str(dtype).removeprefix('torch.')} on {self.device}")
        loaded = load_model(
            section.source,
            dtype=dtype,
            device=self.device,
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
        )
        check_finite(loaded.model)
        note_unused(loaded, self.observer.note)
        return loaded

    @cached_property
    def map(self) -> ModelMap:
        """Blocks and linear layers, and embedding and head where they are compressed too."""
        section = self.config.compression
        found = compressible(self.loaded.model, getattr(section, "group_size", None))
        if (said := coverage(found)) and section.application != "depth":
            self.observer.note(said)
        return with_ends(self.loaded.model, found) if section.embeddings else found

    @cached_property
    def sublayers(self) -> tuple[SubLayer, ...]:
        """What depth pruning can drop, found by running it; ask for it first while the model is whole."""
        units: Granularity = getattr(self.config.compression, "granularity", "sublayer")
        return find_droppable(self.loaded.model, self.map, units, self.observer.note)

    @cached_property
    def runner(self) -> Runner:
        """The model as a sequence of blocks."""
        return Runner(self.loaded.model, self.map)

    @cached_property
    def bos(self) -> int | None:
        """The BOS token that all text begins with, if it does."""
        return find_bos(self.loaded.tokenizer, self.config.data.bos)

    @cached_property
    def splits(self) -> Splits:
        """Calibration, search and held-out text."""
        data = self.config.data
        require_positions(self.loaded.model, data.sequence_length)
        self.observer.note(f"reading {data.source}, {bos_text(self.loaded.tokenizer, self.bos)}")
        found = load_splits(
            data.source,
            self.loaded.tokenizer,
            sequence_length=data.sequence_length,
            calibration_tokens=data.calibration_tokens if self._needs_text else 0,
            search_tokens=data.search_tokens,
            heldout_tokens=data.heldout_tokens,
            seed=data.text_seed,
            bos=self.bos,
            field=data.text_field,
        )
        texts = (*found.calibration.sequences, *found.search.sequences, *found.heldout.sequences)
        require_known_tokens(self.loaded.model, self.loaded.tokenizer, texts)
        return found

    @cached_property
    def application(self) -> Application:
        """What is searched: bit-widths, sparsity or depth."""
        return make_application(self)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Digests of what the database depends on."""
        method = hashlib.sha256(repr(self.application.method or self.config.compression).encode()).hexdigest()
        calibration = self.splits.calibration.fingerprint if self._needs_text else "none"
        return {"model": fingerprint(self.loaded.model), "method": method, "calibration": calibration}

    @property
    def _needs_text(self) -> bool:
        return (method := self.application.method) is not None and method.needs_text

    @property
    def batch_tokens(self) -> int:
        """Tokens in one pass of a block."""
        return BATCH_TOKENS[self._device_type]

    @property
    def head_bytes(self) -> int:
        """Size of a chunk of logits."""
        return HEAD_BYTES[self._device_type]

    @cached_property
    def measure(self) -> Measure:
        """What the search minimises: the caller's own loss, or the configured one."""
        return make_measure(self.fitness or self.config.search.fitness)

    @property
    def free_memory(self) -> int:
        """Bytes that are free where the model runs."""
        return available_memory(self.device)

    @property
    def _device_type(self) -> str:
        return self.device.partition(":")[0]

    @cached_property
    def database(self) -> Database:
        """The complete, verified database."""
        database = Database(self.run.database)
        database.require_complete()
        database.verify()
        return database

    def levels(self, profile: Profile) -> Database:
        """The database, with the polished levels in their places if it is this profile that was polished."""
        if profile not in self._polished and self.run.polished.exists():
            found = polished_levels(self.database, self.run.polished, profile)
            self._polished |= {} if found is None else {profile: found}
        return self._polished.get(profile) or self.database

    @property
    def generations(self) -> int:
        """How many generations the search has."""
        return depth_generations(self.space) if (asked := self.config.search.generations) is None else asked

    @cached_property
    def influence(self) -> Influence:
        """What each block does to the hidden states of the dense model, on a part of the search text."""
        self.observer.note("measuring the influence of each block")
        return measure_influence(self.runner, self._influence_text, batch_tokens=self.batch_tokens)

    @property
    def influence_tokens(self) -> int:
        """The tokens that `influence` is measured on."""
        return sum(map(len, self._influence_text))

    @property
    def _influence_text(self) -> tuple[torch.Tensor, ...]:
        return self.splits.search.sequences[: max(1, INFLUENCE_TOKENS // self.config.data.sequence_length)]

    @property
    def space(self) -> SearchSpace:
        """The profiles that the budget allows."""
        return self.application.space

    @cached_property
    def layer_errors(self) -> dict[str, dict[str, float]]:
        """unit -> level -> ||(W - Wc) X||^2 / ||W X||^2: what the knapsack adds up."""
        units = self.database.manifest.units
        return {name: {DENSE: 0.0} | {level.name: level.error for level in e.levels} for name, e in units.items()}

    @cached_property
    def shapes(self) -> Shapes:
        """What the memory formulas need."""
        return measure_shapes(self.loaded.model, self.map)

    def require_build_memory(self, method: Method) -> None:
        """ResourceError when the build would not fit; the model itself is already loaded."""
        shapes, tokens, bits = self.shapes, self.splits.calibration.total, stored_bits(self.map, method)
        needs = build_memory(shapes, tokens, bits, corrects=corrects(method))
        del needs["model"]
        require_memory(needs, self.free_memory, "the build")

    @contextmanager
    def evaluator(
        self,
        text: Tokens,
        measures: tuple[Measure, ...],
        candidates: int,
        more: Mapping[str, int] | None = None,
        polished: Profile | None = None,
    ) -> Iterator[Evaluator]:
        """An evaluator on `text` that scores about `candidates` profiles in a call, a bounded number of them at once.

        Its bank has half the memory that is free beside `more` (what: bytes). With `polished` its levels are those of
        that profile.

        The model is dense again on exit.
        """
        at_once = min(candidates, AT_ONCE)
        needs = search_memory(self.shapes, text.total, at_once, self.batch_tokens, self.head_bytes) | dict(more or {})
        del needs["model"]
        require_memory(needs, self.free_memory, f"scoring {candidates} profiles")
        free = (self.free_memory - sum(needs.values())) // 2
        with Assembly(self.application.slots(self._loader(free, polished))) as assembly:
            yield Evaluator(
                self.runner,
                assembly,
                text,
                measures,
                seed=self.config.search.seed,
                batch_tokens=self.batch_tokens,
                head_bytes=self.head_bytes,
                at_once=at_once,
                merge=self._device_type != "cpu",
            )

    @contextmanager
    def assembly(self, polished: Profile | None = None) -> Iterator[Assembly]:
        """The model, to be given whole profiles and run by its own forward pass; dense again on exit.

        With `polished` its levels are those of that profile.
        """
        copy = (self.shapes.compressed + self.shapes.ends) * self.shapes.bytes_per_weight
        require_memory({"the compressed weights": copy}, self.free_memory, "assembling a profile")
        with Assembly(self.application.slots(self._loader(0, polished))) as assembly:
            yield assembly

    def dense_tensors(self, profile: Profile) -> Tensors:
        """For each weight that is not left dense its parameter's name and what makes the tensor of its level."""
        levels = dict(profile.items())
        database = self.levels(profile)
        return {
            linear.view.parameter: partial(database.dense, linear.name, levels[linear.name])
            for linear in self.map.linears
            if levels[linear.name] != DENSE
        }

    def _loader(self, memory: int, polished: Profile | None = None) -> Load:
        """Levels from the database, at most `memory` bytes of them kept; nothing to load without a database."""
        if self.application.method is None:
            return no_levels
        database = self.database if polished is None else self.levels(polished)
        return Bank(database, self.runner.device, memory).load
