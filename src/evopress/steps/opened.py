"""A run directory that is opened: its model and what is known of it without text, each loaded when first needed.

Everything that can be checked before long work starts is checked at the first use of each part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from evopress.fitness.divergence import Measure, make_measure
from evopress.fitness.evaluator import HEAD_BYTES
from evopress.formats.format import Source
from evopress.models import (
    Granularity,
    LoadedModel,
    ModelMap,
    Removal,
    Runner,
    SubLayer,
    check_finite,
    choose_device,
    choose_dtype,
    find_droppable,
    load_model,
)
from evopress.models.bos import find_bos
from evopress.models.coverage import compressible, coverage
from evopress.models.ends import with_ends
from evopress.models.load import note_unused
from evopress.models.memory import Shapes, available_memory, measure_shapes
from evopress.run.directory import RunDirectory
from evopress.run.observer import Observer
from evopress.settings.config import Config

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens in one pass of a block: enough to keep the device's matrix units busy."""

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Opened:
    """A run directory and its model. `fitness` replaces the configured measure by a function."""

    def __init__(self, run: RunDirectory, observer: Observer, fitness: LossFunction | None = None) -> None:
        self.run, self.observer, self.fitness = run, observer, fitness

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
        dropping = self.config.dropping
        units: Granularity = "sublayer"
        if dropping is not None and dropping.granularity != "expert":
            units = dropping.granularity
        return find_droppable(self.loaded.model, self.map, units, self.observer.note)

    @cached_property
    def removal(self) -> Removal:
        """Which blocks a checkpoint can lack."""
        return Removal(self.loaded.model, self.map, self.sublayers, self.observer.note)

    @cached_property
    def plain_source(self) -> Source:
        """What formats store, as far as it is known without running the model."""
        config = self.config
        return Source(loaded=self.loaded, map=self.map, sections=config.sections, target=config.export.target)

    @cached_property
    def runner(self) -> Runner:
        """The model as a sequence of blocks."""
        return Runner(self.loaded.model, self.map)

    @cached_property
    def bos(self) -> int | None:
        """The BOS token that all text begins with, if it does."""
        return find_bos(self.loaded.tokenizer, self.config.data.bos)

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
    def shapes(self) -> Shapes:
        """What the memory formulas need."""
        return measure_shapes(self.loaded.model, self.map)
