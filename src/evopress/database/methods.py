"""How a database's levels are made: what the builder knows of GPTQ, SparseGPT, ggml and the others.

A method is data (its `repr` is part of a database's fingerprint) and answers two questions: which levels will a weight
have and what do they take on disk, and, given the weights of one input group, what are their compressed forms. A new
method is a class like these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from evopress.core.ggml_types import fitting_types, ggml_storage_bits, ggml_type
from evopress.errors import ConfigError
from evopress.levels import (
    Compressed,
    Grid,
    Inputs,
    Sparsity,
    prune_magnitude,
    prune_sparsegpt,
    prune_wanda,
    quantize_ggml,
    quantize_gptq,
    quantize_rtn,
    sparse_storage_bits,
    storage_bits,
)
from evopress.levels.levels import count_zeros
from evopress.levels.packed import Packed

Levels = Mapping[str, Compressed[Packed]]
"""Level name -> a weight's compressed form."""


class Method(Protocol):
    """How levels are made; `str` says it to a person."""

    @property
    def propagate(self) -> str:
        """The level whose activations later blocks see, `dense`, or `profile` where each unit has its own."""

    def seen(self, unit: str) -> str | None:
        """The level that a unit has in what later blocks see; None is the dense weight."""

    @property
    def needs_text(self) -> bool:
        """Whether the method looks at activations."""

    def level_bits(self, name: str, shape: tuple[int, int]) -> dict[str, int]:
        """Level name -> stored bits of the weight called `name`, in the order in which levels are stored."""

    @property
    def mismatch(self) -> float:
        """How much of it the method corrects when inputs differ from the uncompressed model's: 0, nothing, to 1."""

    def compress(self, names: Sequence[str], weights: Sequence[torch.Tensor], inputs: Inputs | None) -> list[Levels]:
        """All levels of weights (rows, columns) that read the same `inputs`; None where no text is needed.

        Their mismatch is given to methods that correct for it.
        """


def corrects(method: Method) -> bool:
    """Whether a build needs the inputs of the uncompressed model beside those that later blocks see."""
    return method.mismatch > 0 and method.propagate != "dense"


def _seen(method: Method) -> str:
    """What later blocks see, and how much of it is corrected."""
    if method.propagate == "dense":
        return "later blocks see dense inputs"
    corrected = f", {method.mismatch:g} of the mismatch corrected" if method.mismatch else ""
    return f"later blocks see level {method.propagate}{corrected}"


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Levels are grids, the same for all weights."""

    name: Literal["gptq", "rtn"] = "gptq"
    grids: Mapping[str, Grid]
    damping: float = 0.01
    act_order: bool = False
    search: bool = False
    rounds: int = 0
    mismatch: float = 0.0
    propagate: str = "dense"

    def seen(self, unit: str) -> str | None:
        """The same for all."""
        return None if self.propagate == "dense" else self.propagate

    def __str__(self) -> str:
        scales = "scales searched" if self.search else "scales of the full range"
        if self.name == "rtn":
            return f"round to nearest, {scales}"
        order = "columns by activation" if self.act_order else "columns as stored"
        rounds = f"{self.rounds} round{'s' * (self.rounds != 1)} of refinement"
        return f"gptq, {scales}, {order}, {rounds}, {_seen(self)}"

    @property
    def needs_text(self) -> bool:
        """Rounding to nearest looks at weights alone."""
        return self.name != "rtn"

    def level_bits(self, name: str, shape: tuple[int, int]) -> dict[str, int]:
        """Codes, scales and zeros."""
        return {level: storage_bits(shape, grid) for level, grid in self.grids.items()}

    def compress(self, names: Sequence[str], weights: Sequence[torch.Tensor], inputs: Inputs | None) -> list[Levels]:
        """One stacked sweep for all weights and grids."""
        grids = list(self.grids.values())
        if inputs is None:
            results = quantize_rtn(weights, grids, search=self.search)
        else:
            results = quantize_gptq(
                weights,
                inputs.correcting(self.mismatch),
                grids,
                damping=self.damping,
                act_order=self.act_order,
                search=self.search,
                rounds=self.rounds,
            )
        return [dict(zip(self.grids, own, strict=True)) for own in results]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Levels are numbers of zeros or N:M patterns, for each weight its own. Kept weights are stored as `dtype`."""

    name: Literal["sparsegpt", "wanda", "magnitude"] = "sparsegpt"
    levels: Mapping[str, Mapping[str, Sparsity]]
    dtype: torch.dtype
    damping: float = 0.01
    mismatch: float = 0.0
    propagate: str = "dense"

    def seen(self, unit: str) -> str | None:
        """The same for all."""
        return None if self.propagate == "dense" else self.propagate

    def __str__(self) -> str:
        return f"{self.name}, {_seen(self)}" if self.needs_text else self.name

    @property
    def needs_text(self) -> bool:
        """Magnitude looks at weights alone."""
        return self.name != "magnitude"

    def level_bits(self, name: str, shape: tuple[int, int]) -> dict[str, int]:
        """Mask and kept values."""
        return {
            level: sparse_storage_bits(shape, count_zeros(sparsity, shape), self.dtype)
            for level, sparsity in self.levels[name].items()
        }

    def compress(self, names: Sequence[str], weights: Sequence[torch.Tensor], inputs: Inputs | None) -> list[Levels]:
        """SparseGPT: one stacked sweep for all weights and levels."""
        own = [self.levels[name] for name in names]
        wanted = [list(levels.values()) for levels in own]
        if inputs is None:
            results = prune_magnitude(weights, wanted, dtype=self.dtype)
        elif self.name == "wanda":
            results = prune_wanda(weights, inputs.hessian, wanted, dtype=self.dtype)
        else:
            share = inputs.correcting(self.mismatch)
            results = prune_sparsegpt(weights, share, wanted, damping=self.damping, dtype=self.dtype)
        return [dict(zip(levels, done, strict=True)) for levels, done in zip(own, results, strict=True)]


@dataclass(frozen=True, kw_only=True)
class GgmlQuantization:
    """Levels are ggml types. A weight has those of `types` that fit its width, or what llama-quantize takes instead.

    A level is called after the type that is really stored, so weights of different widths have different levels, and
    no level is common to all: `propagate` is always dense.
    """

    name: Literal["ggml"] = "ggml"
    types: tuple[str, ...]
    importance: bool = True
    mismatch: float = 0.0
    propagate: Literal["dense"] = "dense"

    def seen(self, unit: str) -> None:
        """Always the dense weight."""

    def __str__(self) -> str:
        return f"ggml's own quantizers, {'with' if self.importance else 'without'} importance of inputs"

    def __post_init__(self) -> None:
        if not self.types:
            raise ConfigError("no ggml types to quantize to, must be at least one such as Q4_K")
        if self.propagate != "dense":
            raise ConfigError(f"propagate is {self.propagate!r}, must be 'dense': no ggml type fits every width")
        for wanted in self.types:
            if ggml_type(wanted).needs_importance and not self.importance:
                raise ConfigError(f"ggml type {wanted} needs an importance matrix, which takes calibration text")

    @property
    def needs_text(self) -> bool:
        """The importance matrix comes from activations."""
        return self.importance

    def level_bits(self, name: str, shape: tuple[int, int]) -> dict[str, int]:
        """Whole blocks, their scales inside."""
        return {level: ggml_storage_bits(shape, level) for level in fitting_types(self.types, shape[1])}

    def compress(self, names: Sequence[str], weights: Sequence[torch.Tensor], inputs: Inputs | None) -> list[Levels]:
        """Each weight by itself: ggml knows no error feedback.

        Embeddings have no inputs to measure. As in llama-quantize their types do without importance; those that cannot
        be made without take all inputs for equal.
        """
        columns = weights[0].shape[1]
        levels = fitting_types(self.types, columns)
        results: list[dict[str, Compressed[Packed]]] = [{} for _ in weights]
        hessian = None if inputs is None else inputs.hessian
        for level in levels:
            flat = hessian is None and ggml_type(level).needs_importance
            measure = torch.eye(columns) if flat else hessian
            for own, [made] in zip(results, quantize_ggml(weights, [level], hessian=measure), strict=True):
                own[level] = made
        return [*results]
