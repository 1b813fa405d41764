"""What the steps of a run share: the model, its map, the text and the database, each loaded when first needed.

Everything that can be checked before long work starts is checked here, at the first use of each part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import accumulate

import torch

from evopress.core.costs import FileCosts
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.database.build import stored_bits
from evopress.database.methods import Method, corrects
from evopress.database.polished import polished_again, polished_levels
from evopress.database.store import Database
from evopress.families import Family, layer_errors, together
from evopress.fitness.bank import Bank
from evopress.fitness.divergence import Measure
from evopress.fitness.evaluator import AT_ONCE, Evaluator
from evopress.formats.format import Content, Format, Source
from evopress.formats.formats import find_format
from evopress.formats.verification import Searched, logits
from evopress.models import Influence, fingerprint, group_sublayers, measure_influence
from evopress.models.assemble import Assembly, Load, no_levels
from evopress.models.bos import bos_text
from evopress.models.checks import require_known_tokens
from evopress.models.load import require_positions
from evopress.models.memory import build_memory, require_memory, search_memory
from evopress.models.weights import replaced
from evopress.run.directory import RunDirectory
from evopress.run.observer import Observer
from evopress.search.presets import depth_generations
from evopress.steps.families import Later, make_families
from evopress.steps.mixtures import kept_experts
from evopress.steps.opened import LossFunction, Opened
from evopress.text.loading import load_beyond, load_splits
from evopress.text.tokens import SHORTEST_SEQUENCE, Amounts, Splits, Tokens

INFLUENCE_TOKENS = 8192
"""Means over tokens of one number a token: a few thousand tell the order of blocks."""


class Workspace(Opened):
    """A run directory with its model, text, family and database: what steps take what they need from."""

    goes_on_from: Profile | None = None  # where another search ended: this one starts and measures there

    def __init__(self, run: RunDirectory, observer: Observer, fitness: LossFunction | None = None) -> None:
        super().__init__(run, observer, fitness)
        self._polished: dict[Profile, Database] = {}

    @cached_property
    def splits(self) -> Splits:
        """Calibration, search and held-out text."""
        data = self.config.data
        require_positions(self.loaded.model, data.sequence_length)
        self.observer.note(f"reading {data.source}, {bos_text(self.loaded.tokenizer, self.bos)}")
        found = load_splits(
            data.source,
            self.loaded.tokenizer,
            Amounts(
                calibration=data.calibration_tokens if self._needs_text else 0,
                search=data.search_tokens,
                heldout=data.heldout_tokens,
            ),
            sequence_length=data.sequence_length,
            seed=data.text_seed,
            bos=self.bos,
            field=data.text_field,
        )
        texts = (*found.calibration.sequences, *found.search.sequences, *found.heldout.sequences)
        require_known_tokens(self.loaded.model, self.loaded.tokenizer, texts)
        return found

    def text_to_learn(self, tokens: int) -> Tokens:
        """The first `tokens` tokens, in whole sequences, of calibration and search text and what is behind them."""
        data, known = self.config.data, (*self.splits.calibration.sequences, *self.splits.search.sequences)
        taken = (self.splits.calibration.total, self.splits.search.total)
        if (missing := tokens - sum(taken)) > 0:
            more = load_beyond(
                data.source,
                self.loaded.tokenizer,
                taken,
                max(missing, SHORTEST_SEQUENCE),
                sequence_length=data.sequence_length,
                seed=data.text_seed,
                bos=self.bos,
            )
            require_known_tokens(self.loaded.model, self.loaded.tokenizer, more.sequences)
            known += more.sequences
        ends = accumulate(map(len, known), initial=0)
        return Tokens.of(
            (one for one, end in zip(known, ends, strict=False) if end < tokens), data.source, bos=self.bos
        )

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """What is searched: bit-widths, sparsity or depth."""
        later = Later(
            lambda: self.database,
            lambda: self.files,
            lambda: self.influence,
            lambda: self.influence_tokens,
            lambda: self._influence_text,
        )
        return make_families(self, later)

    @cached_property
    def family(self) -> Family:
        """All of them as one."""
        return together(self.families, self.map, self.config.budget, lambda: self.files)

    @cached_property
    def source(self) -> Source:
        """What formats store."""
        dropping = self.config.dropping
        if dropping is None or dropping.granularity == "expert":
            return self.plain_source
        parts = group_sublayers(self.sublayers, dropping.granularity)
        return replace(self.plain_source, parts=parts, left_out=self.removal.blocks)

    @cached_property
    def files(self) -> FileCosts:
        """What the files of the run's format cost; ConfigError where the profile does not change their size."""
        return self._format.costs(self.source)

    @property
    def _format(self) -> Format:
        return find_format(self.config.format, self.config.families)

    def content(self, profile: Profile) -> Content:
        """A profile as files hold it, with its polished levels if it is the one that was polished."""
        database = self.polished(profile) or (None if self.family.method is None else self.database)
        return Content(
            profile=profile,
            tensors=self.family.tensors(profile, database),
            dropped=self.family.dropped(profile),
            experts=kept_experts(self.family, profile),
            left_out=self.family.left_out(profile),
            database=database,
        )

    def sizes(self, profile: Profile | None) -> dict[str, float | int]:
        """What a profile (None: the dense model) amounts to; with a target, `bytes` are those of its files."""
        found = self.family.sizes(profile)
        if profile is not None and self.config.target is not None and self.family.resizes:
            found["bytes"] = self._format.predicted_bytes(self.source, self.content(profile))
        return found

    def searched(self, profile: Profile) -> Searched:
        """The model of a profile as it is in memory, to compare an export with."""

        def of_searched(ids: torch.Tensor) -> torch.Tensor:
            with self.assembly(polished=profile) as assembly:
                assembly.apply(profile)
                return logits(self.loaded.model, ids)

        return Searched(of_searched, self.device, self.free_memory, self.config.model.trust_remote_code)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Digests of what the database depends on."""
        method = hashlib.sha256(repr(self.family.method or self.config.compression).encode()).hexdigest()
        calibration = self.splits.calibration.fingerprint if self._needs_text else "none"
        return {"model": fingerprint(self.loaded.model), "method": method, "calibration": calibration}

    @property
    def _needs_text(self) -> bool:
        return (method := self.family.method) is not None and method.needs_text

    @cached_property
    def database(self) -> Database:
        """The complete, verified database."""
        database = Database(self.run.database)
        database.require_complete()
        database.verify()
        return database

    def polished(self, profile: Profile) -> Database | None:
        """The database with the polished levels in their places, or what was healed; None where there is none."""
        base = None if self.family.method is None else lambda: self.database
        for directory in (self.run.polished, self.run.polished_uniform):
            if profile not in self._polished and directory.exists():
                found = polished_levels(base, directory, profile)
                self._polished |= {} if found is None else {profile: found}
        if profile not in self._polished and base is not None and self.run.again.exists():
            found = polished_again(base, self.run.polished, self.run.again / "polished", profile)
            self._polished |= {} if found is None else {profile: found}
        return self._polished.get(profile)

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
        """The tokens of `influence`."""
        return sum(map(len, self._influence_text))

    @property
    def _influence_text(self) -> tuple[torch.Tensor, ...]:
        return self.splits.search.sequences[: max(1, INFLUENCE_TOKENS // self.config.data.sequence_length)]

    @property
    def space(self) -> SearchSpace:
        """The profiles that the budget allows."""
        return self.family.space

    @cached_property
    def layer_errors(self) -> dict[str, dict[str, float]]:
        """unit -> level -> ||(W - Wc) X||^2 / ||W X||^2: what the knapsack adds up."""
        return layer_errors(self.database)

    def require_build_memory(self, method: Method) -> None:
        """ResourceError when the build would not fit; the model itself is already loaded."""
        shapes, tokens, bits = self.shapes, self.splits.calibration.total, stored_bits(self.map, method)
        needs = build_memory(shapes, tokens, self.batch_tokens, bits, corrects=corrects(method))
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
        that profile. The model is dense again on exit.
        """
        at_once = min(candidates, AT_ONCE)
        needs = search_memory(self.shapes, text.total, at_once, self.batch_tokens, self.head_bytes) | dict(more or {})
        del needs["model"]
        require_memory(needs, self.free_memory, f"scoring {candidates} profiles")
        free = (self.free_memory - sum(needs.values())) // 2
        with self._healed(polished), Assembly(self.family.slots(self._loader(free, polished))) as assembly:
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
        with self._healed(polished), Assembly(self.family.slots(self._loader(0, polished))) as assembly:
            yield assembly

    @contextmanager
    def _healed(self, profile: Profile | None) -> Iterator[None]:
        """The model with the weights that were healed for a profile, where levels are no tensors that a slot takes."""
        database = self.polished(profile) if profile is not None and self.family.method is None else None
        dtype, units = self.loaded.model.dtype, {} if database is None else database.manifest.units
        with replaced(
            self.loaded.model,
            {
                entry.view: database.load(name, level.name).dequantize(dtype).to(self.runner.device)
                for name, entry in units.items()
                for level in entry.levels
                if database
            },
        ):
            yield

    def _loader(self, memory: int, polished: Profile | None = None) -> Load:
        """Levels from the database, at most `memory` bytes of them kept; nothing to load without a database."""
        if self.family.method is None:
            return no_levels
        database = (None if polished is None else self.polished(polished)) or self.database
        return Bank(database, self.runner.device, memory).load
