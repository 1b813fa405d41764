"""What the steps of a run share: the model, its map, the text and the database, each loaded when first needed.

Everything that can be checked before long work starts is checked here, at the first use of each part.
"""

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
from evopress.database.methods import Method
from evopress.database.store import Database
from evopress.errors import ConfigError
from evopress.fitness.bank import Bank
from evopress.fitness.divergence import Measure, make_measure
from evopress.fitness.evaluator import AT_ONCE, HEAD_BYTES, Evaluator
from evopress.fitness.tokens import Splits, Tokens, load_splits
from evopress.models import (
    Granularity,
    Influence,
    LoadedModel,
    ModelMap,
    Runner,
    SubLayer,
    check_finite,
    choose_dtype,
    find_droppable,
    fingerprint,
    load_model,
    measure_influence,
)
from evopress.models.checks import require_known_tokens
from evopress.models.coverage import compressible, coverage
from evopress.models.ends import with_ends
from evopress.models.load import note_unused, require_positions
from evopress.observer import Observer
from evopress.plan import Shapes, available_memory, build_memory, require_memory, search_memory
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

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.run.config

    @cached_property
    def device(self) -> str:
        """Where the model runs."""
        asked, cuda = self.config.model.device, torch.cuda.is_available()
        if asked == "auto":
            return "cuda" if cuda else "cpu"
        if asked.partition(":")[0] not in ("cpu", "cuda") or (asked.startswith("cuda") and not cuda):
            raise ConfigError(f"device {asked!r} is not there; use auto, cpu{', cuda' if cuda else ''}")
        return asked

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
    def splits(self) -> Splits:
        """Calibration, search and held-out text."""
        data = self.config.data
        require_positions(self.loaded.model, data.sequence_length)
        self.observer.note(f"reading {data.source}")
        found = load_splits(
            data.source,
            self.loaded.tokenizer,
            sequence_length=data.sequence_length,
            calibration_tokens=data.calibration_tokens if self._needs_text else 0,
            search_tokens=data.search_tokens,
            heldout_tokens=data.heldout_tokens,
            seed=self.config.data.text_seed,
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
        how = self.application.method or self.config.compression
        method = hashlib.sha256(repr(how).encode()).hexdigest()
        calibration = self.splits.calibration.fingerprint if self._needs_text else "none"
        return {"model": fingerprint(self.loaded.model), "method": method, "calibration": calibration}

    @property
    def _needs_text(self) -> bool:
        method = self.application.method
        return method is not None and method.needs_text

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

    @property
    def generations(self) -> int:
        """How many generations the search has."""
        asked = self.config.search.generations
        return depth_generations(self.space) if asked is None else asked

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
        model, model_map = self.loaded.model, self.map
        ends = [linear for linear in model_map.linears if not 0 <= linear.block < model_map.n_blocks]
        groups: dict[str, tuple[int, int]] = {}
        for linear in model_map.linears:
            if linear.block == 0:
                rows, columns = linear.view.shape
                groups[linear.input_group] = (columns, groups.get(linear.input_group, (0, 0))[1] + rows)
        return Shapes(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            bytes_per_weight=self.loaded.model.dtype.itemsize,
            blocks=model_map.n_blocks,
            width=model.get_input_embeddings().weight.shape[1],
            vocabulary=model.get_output_embeddings().weight.shape[0],
            groups=tuple(groups.values()),
            ends=sum(linear.view.shape[0] * linear.view.shape[1] for linear in ends),
        )

    def require_build_memory(self, method: Method) -> None:
        """ResourceError when the build would not fit; the model itself is already loaded."""
        needs = build_memory(self.shapes, self.splits.calibration.total, self._stored_bits(method))
        del needs["model"]
        require_memory(needs, self.free_memory, "the build")

    @contextmanager
    def evaluator(
        self, text: Tokens, measures: tuple[Measure, ...], candidates: int, more: Mapping[str, int] | None = None
    ) -> Iterator[Evaluator]:
        """An evaluator on `text` that scores about `candidates` profiles in a call, a bounded number of them at once.

        Its bank has half the memory that is free beside `more` (what: bytes).

        The model is dense again on exit.
        """
        at_once = min(candidates, AT_ONCE)
        needs = search_memory(self.shapes, text.total, at_once, self.batch_tokens, self.head_bytes) | dict(more or {})
        del needs["model"]
        require_memory(needs, self.free_memory, f"scoring {candidates} profiles")
        free = (self.free_memory - sum(needs.values())) // 2
        with Assembly(self.application.slots(self._loader(free))) as assembly:
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
    def assembly(self) -> Iterator[Assembly]:
        """The model, to be given whole profiles and run by its own forward pass; dense again on exit."""
        copy = (self.shapes.compressed + self.shapes.ends) * self.shapes.bytes_per_weight
        require_memory({"the compressed weights": copy}, self.free_memory, "assembling a profile")
        with Assembly(self.application.slots(self._loader(0))) as assembly:
            yield assembly

    def dense_tensors(self, profile: Profile) -> Tensors:
        """For each weight that is not left dense its parameter's name and what makes the tensor of its level."""
        levels = dict(profile.items())
        return {
            linear.view.parameter: partial(self.database.dense, linear.name, levels[linear.name])
            for linear in self.map.linears
            if levels[linear.name] != DENSE
        }

    def _loader(self, memory: int) -> Load:
        """Levels from the database, at most `memory` bytes of them kept; nothing to load without a database."""
        if self.application.method is None:
            return no_levels
        return Bank(self.database, self.runner.device, memory).load

    def _stored_bits(self, method: Method) -> list[float]:
        weights = sum(linear.view.shape[0] * linear.view.shape[1] for linear in self.map.linears)
        bits: dict[str, int] = {}
        for linear in self.map.linears:
            for level, own in method.level_bits(linear.name, linear.view.shape).items():
                bits[level] = bits.get(level, 0) + own
        return [own / weights for own in bits.values()]
