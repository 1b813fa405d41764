"""What the runtimes that serve a checkpoint can run: known before a search, so that it searches nothing else.

A target fixes the format of the export, which levels there are, which weights must share one because the runtime fuses
their layers, and what can be dropped. Facts about runtimes stand in this table and nowhere else; docs/serving.md says
which of them were tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evopress.core.ggml_types import GGML_TYPES
from evopress.core.profile import DENSE
from evopress.errors import ConfigError
from evopress.search.presets import ApplicationName
from evopress.settings.sections import DropSection, QuantizeSection, Section

if TYPE_CHECKING:
    from evopress.models import Linear

TargetName = Literal["vllm", "transformers", "llamacpp", "mlx"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A runtime: what a run for it may search, and the format of its checkpoints for each application.

    `levels` are legal for `methods`, the first of which is the default; `group_sizes` None allows any. `fuses`: layers
    of one module that read the same tensor run as one and need one level. `sublayers`: attention or MLP alone can be
    dropped; otherwise whole blocks. `embeddings`: embedding and head can have levels. `few` are the levels of who names
    none, where it would be too much to make all. `stored`: a budget of bits counts those that are stored, scales too.
    `first_attention`: the attention of the first block cannot be dropped by itself. `experts`: which of a mixture's
    matrices share a level at least.
    """

    name: TargetName
    formats: Mapping[ApplicationName, str]
    methods: tuple[str, ...]
    levels: tuple[str, ...]
    group_sizes: tuple[int | None, ...] | None
    symmetric: bool
    fuses: bool
    sublayers: bool
    embeddings: bool
    few: tuple[str, ...] = ()
    stored: bool = False
    first_attention: bool = False
    experts: Literal["matrix", "layer"]

    def defaults(self, application: ApplicationName) -> dict[str, Any]:
        """Values of the section `compression` for who says nothing else."""
        if application == "bits":
            return {
                "method": self.methods[0],
                "levels": self.few or self.levels,
                "symmetric": self.symmetric,
                "embeddings": self.embeddings,
            }
        return {"granularity": "block"} if application == "depth" and not self.sublayers else {}

    def check(self, section: Section) -> None:
        """ConfigError with what is legal when a section `compression` asks for what the runtime cannot run."""
        if isinstance(section, QuantizeSection):
            self._check_quantization(section)
        if isinstance(section, DropSection) and not self.sublayers and section.granularity == "sublayer":
            raise ConfigError(
                f"{self.name} runs no blocks without their attention or MLP; use granularity block or pair"
            )

    def _check_quantization(self, section: QuantizeSection) -> None:
        if section.method not in self.methods:
            raise ConfigError(
                f"method {section.method} does not make levels for {self.name}; use {_list(self.methods)}"
            )
        if illegal := [level for level in section.levels if level not in self.levels]:
            raise ConfigError(f"{self.name} does not run the level {illegal[0]}; its levels are {_list(self.levels)}")
        if self.symmetric and not section.symmetric:
            raise ConfigError(f"{self.name} runs symmetric grids only; leave --symmetric on")
        if self.group_sizes is not None and section.group_size not in self.group_sizes:
            legal = _list([str(size or 0) for size in self.group_sizes])
            raise ConfigError(f"{self.name} does not run groups of {section.group_size}; use {legal} (0: a row)")
        if section.embeddings and not self.embeddings:
            raise ConfigError(f"{self.name} runs embedding and head in full precision; leave --embeddings off")
        order = list(_EXPERTS)
        if section.experts in order[: order.index(self.experts)]:
            raise ConfigError(
                f"{self.name} runs {_EXPERTS[self.experts]} at one level, which --experts {section.experts} would "
                f"part; use --experts {self.experts}"
            )

    def ties(self, linears: Sequence[Linear]) -> tuple[tuple[Linear, ...], ...]:
        """The linears in their order, those that the runtime fuses together.

        Found by structure: fused are layers of one module that read the same tensor (q, k and v of an attention, gate
        and up of an MLP). A projection that the model itself stores fused has no others beside it.
        """
        groups: dict[object, list[Linear]] = {}
        for linear in linears:
            key = (linear.input_group, linear.name.rpartition(".")[0]) if self.fuses else linear.name
            groups.setdefault(key, []).append(linear)
        return tuple(map(tuple, groups.values()))


_EXPERTS = {
    "each": "each matrix of each expert",
    "matrix": "a matrix of all experts of a layer",
    "layer": "all experts of a layer",
}
"""What has one level for each value of --experts, the finer first."""

_WIDTHS = ("2", "3", "4", "5", "6", "7", "8")

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="vllm",
            formats={"bits": "compressed-tensors", "sparsity": "hf", "depth": "hf"},
            methods=("gptq", "rtn"),
            levels=("4", "8", DENSE),
            group_sizes=(32, 64, 128, None),
            symmetric=True,
            fuses=True,
            sublayers=False,
            embeddings=False,
            experts="layer",
        ),
        Target(
            name="transformers",
            formats={"bits": "compressed-tensors", "sparsity": "hf", "depth": "hf"},
            methods=("gptq", "rtn"),
            levels=(*_WIDTHS, DENSE),
            group_sizes=(32, 64, 128, None),
            symmetric=True,
            fuses=False,
            sublayers=True,
            embeddings=False,
            experts="layer",
        ),
        Target(
            name="llamacpp",
            formats={"bits": "gguf", "sparsity": "gguf", "depth": "gguf"},
            methods=("ggml",),
            levels=tuple(GGML_TYPES),
            group_sizes=None,
            symmetric=False,
            fuses=False,
            sublayers=True,
            embeddings=True,
            few=("IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),  # IQ4_NL serves odd widths before Q4_0
            stored=True,
            first_attention=True,
            experts="matrix",
        ),
        Target(
            name="mlx",
            formats={"bits": "mlx", "sparsity": "hf", "depth": "hf"},
            methods=("gptq", "rtn"),
            levels=("2", "3", "4", "5", "6", "8", DENSE),
            group_sizes=(32, 64, 128),
            symmetric=True,
            fuses=False,
            sublayers=True,
            embeddings=False,
            experts="matrix",
        ),
    )
}
"""Name -> target."""


def tied_experts(section: QuantizeSection, target: Target | None) -> str:
    """Which of a mixture's matrices share a level: as was asked, else those that the target runs as one.

    >>> tied_experts(QuantizeSection(), TARGETS["vllm"]), tied_experts(QuantizeSection(experts="matrix"), None)
    ('layer', 'matrix')
    """
    if section.experts != "auto":
        return section.experts
    return "each" if target is None else target.experts


def find_target(name: str | None) -> Target | None:
    """The target of that name, None for none; ConfigError lists the known."""
    if name is None:
        return None
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}; known: {_list(list(TARGETS))}")
    return TARGETS[name]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
