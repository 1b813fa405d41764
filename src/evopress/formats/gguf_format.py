"""The formats of llama.cpp: a GGUF file with the searched levels, and llama-quantize's file of tensor types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from evopress.core.costs import FileCosts
from evopress.core.files import write_text
from evopress.core.ggml_types import fitting_types, padded, row_bytes
from evopress.core.profile import KEEP
from evopress.errors import ConfigError, ModelError, ProfileError, UnsupportedModel
from evopress.formats.about import About
from evopress.formats.format import Content, Source
from evopress.formats.gguf import (
    DENSE_TYPES,
    GgufPlan,
    Packs,
    export_gguf,
    gguf_names,
    plan_gguf,
    predicted_bytes,
)
from evopress.formats.gguf_depth import depth_costs, drop_experts, drop_sublayers
from evopress.formats.gguf_levels import dense_packs, level_packs, level_types
from evopress.formats.gguf_metadata import architecture
from evopress.formats.hf import fewer_experts, stored_zeros
from evopress.formats.shards import Progress
from evopress.formats.staging import hidden
from evopress.formats.verification import (
    HALF_TOLERANCE,
    Searched,
    Verification,
    compare,
    logits,
    no_room,
    probe,
)
from evopress.levels.tensor_types import read_tensor_types, write_tensor_types
from evopress.models import load_model
from evopress.models.routing import find_routed
from evopress.search.presets import ApplicationName
from evopress.settings.sections import DropSection, QuantizeSection, SparsifySection
from evopress.settings.targets import find_target, tied_experts

FILE = "model.gguf"
TYPES_FILE = "tensor-types.txt"
TOLERANCE = 1e-4  # Gemma's norms are stored plus one and come back less one, each rounded to fp32


class Gguf:
    """Implements `Format`: one file, whose every byte is known beforehand."""

    name = "gguf"
    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",), ("sparsity",), ("depth",), ("bits", "depth"))

    def check(self, source: Source) -> None:
        """UnsupportedModel for an architecture that llama.cpp does not have, or computes otherwise."""
        section = source.section
        plan_gguf(source.loaded, {})
        if not source.map.experts:
            return
        if len(source.sections) > 1:
            raise UnsupportedModel("format gguf holds no mixtures of mixed types without some of their blocks; use hf")
        if isinstance(section, DropSection) and section.granularity == "sublayer":
            raise UnsupportedModel(
                "mixtures have no GGUF layout without some attentions or MLPs; use --granularity block"
            )
        if isinstance(section, QuantizeSection) and tied_experts(section, find_target(source.target)) == "each":
            raise ConfigError(
                "format gguf holds one type for a matrix of all experts of a layer; make the run with --experts matrix"
            )

    def predicted_bytes(self, source: Source, content: Content) -> int:
        """Header, levels, and what is left dense, each padded."""
        return predicted_bytes(_plan(source, content))

    def costs(self, source: Source) -> FileCosts:
        """Exact for types, on which the header does not depend, a little more for dropped parts. Needs no database."""
        section = source.section
        if isinstance(section, DropSection):
            return depth_costs(plan_gguf(source.loaded, {}), source.parts)
        if not isinstance(section, QuantizeSection) or section.method != "ggml":
            raise ConfigError("a size of a GGUF file needs levels that are ggml types; use --target llamacpp")
        levels, types = {}, {}
        for linear in source.map.linears:
            rows, columns = linear.view.shape
            # Of experts, whose stacks are padded as wholes, at most 64 bytes too much.
            own = {kind: padded(rows * row_bytes(kind, columns)) for kind in fitting_types(section.levels, columns)}
            levels[linear.name], types[linear.view.parameter] = own, next(iter(own))
        plan = plan_gguf(source.loaded, types)
        if source.parts:
            return _with_parts(depth_costs(plan, source.parts), source, levels)
        searched = [tensor for tensor in plan.tensors if tensor.parts or tensor.parameter in types]
        return FileCosts(predicted_bytes(plan) - sum(padded(tensor.bytes) for tensor in searched), levels)

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """OUT/model.gguf, whose levels are the database's bytes, or zeros among numbers of the model's own dtype."""
        packs: Packs = {}
        if isinstance(source.section, QuantizeSection):
            packs = level_packs(content.profile, content.levels)
        elif isinstance(source.section, SparsifySection):
            packs = dense_packs(content.tensors, source.loaded.model.dtype)
        export_gguf(hidden(out / FILE), _plan(source, content), packs, progress=progress)

    def about(self, source: Source, content: Content) -> About:
        """llama.cpp's server, what was dropped, and that zeros are stored."""
        section, notes = source.section, []
        if isinstance(section, SparsifySection):
            notes.append(stored_zeros(content))
        if content.experts:
            notes.append(fewer_experts(content))
        if source.parts:
            kinds = Counter(sublayer.kind for sublayer in content.dropped)
            notes.append(
                f"{kinds['attn']} attentions and {kinds['mlp']} MLPs are not in the file, or zeros "
                "where llama.cpp has no layout without them."
            )
        return About("gguf", (("With llama.cpp", f"llama-server -m DIRECTORY/{FILE}"),), tuple(notes))

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load it with transformers, which reads all but the `deci` layout."""
        if _plan(source, content).architecture == "deci":
            reason = "transformers does not read blocks without attention or MLP; scripts/llama_cpp_logits.py does"
            return Verification("transformers", None, 0.0, reason)
        if not architecture(source.loaded.model.config).read:
            reason = "transformers does not read GGUF files of such mixtures; scripts/llama_cpp_logits.py does"
            return Verification("transformers", None, 0.0, reason)
        model = source.loaded.model
        tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
        if reason := no_room(model, searched.free):
            return Verification("transformers", None, tolerance, reason)
        ids = probe(model.get_input_embeddings().weight.shape[0])
        expected = searched.logits(ids)
        try:
            found = load_model(str(out / FILE), dtype=model.dtype, device=searched.device).model
        except ModelError as error:
            return Verification("transformers", float("nan"), tolerance, str(error))
        return compare("transformers", expected, logits(found, ids), tolerance)


class LlamaQuantize:
    """Implements `Format`: no weights, but which type llama-quantize shall give each of them."""

    name = "llama-quantize"
    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",),)

    def check(self, source: Source) -> None:
        """UnsupportedModel for an architecture that llama.cpp does not have, and for mixtures."""
        if source.map.experts:
            raise UnsupportedModel("format llama-quantize does not hold experts; use gguf")
        gguf_names(source.loaded)

    def predicted_bytes(self, source: Source, content: Content) -> int:
        """No file holds weights."""
        return 0

    def costs(self, source: Source) -> FileCosts:
        """ConfigError: the file that llama-quantize makes of it is that of the format gguf."""
        raise ConfigError("a size needs the file itself; use --format gguf")

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """OUT/tensor-types.txt."""
        text = write_tensor_types(level_types(content.profile, content.levels), gguf_names(source.loaded))
        write_text(hidden(out / TYPES_FILE), text)

    def about(self, source: Source, content: Content) -> About:
        """llama-quantize's command."""
        command = f"llama-quantize --tensor-type-file DIRECTORY/{TYPES_FILE} model-f16.gguf model.gguf Q4_K"
        return About("gguf", (("With llama.cpp, from a GGUF file of the model in half precision", command),))

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Read it as llama-quantize reads it: it must name the same types."""
        text = (out / TYPES_FILE).read_text(encoding="utf-8")
        try:
            found = read_tensor_types(text, *_units(source))
        except ProfileError as error:
            return Verification("its own rules", float("nan"), 0.0, str(error))
        if found != content.profile:
            return Verification("its own rules", float("nan"), 0.0, f"{TYPES_FILE} names other types")
        return Verification("its own rules", None, 0.0, f"{TYPES_FILE} holds no weights; read again it is the profile")


def _with_parts(depth: FileCosts, source: Source, levels: dict[str, dict[str, int]]) -> FileCosts:
    """The costs of parts, made for a file with the smallest levels, and those of `levels` beside each other."""
    least = {name: min(own.values()) for name, own in levels.items()}
    blocks = {name: {sublayer.block for sublayer in group} for name, group in source.parts.items()}
    inside = {
        name: [linear.name for linear in source.map.linears if linear.block in own] for name, own in blocks.items()
    }
    parts = {name: depth.levels[name][KEEP] - sum(least[own] for own in members) for name, members in inside.items()}
    outside = least.keys() - {own for members in inside.values() for own in members}
    return FileCosts(depth.constant - sum(least[own] for own in outside), levels, parts)


def _units(source: Source) -> tuple[dict[str, str], dict[str, int]]:
    """Names in GGUF and widths of the units."""
    names, linears = gguf_names(source.loaded), source.map.linears
    return (
        {linear.name: names[linear.view.parameter] for linear in linears},
        {linear.name: linear.view.shape[1] for linear in linears},
    )


def _plan(source: Source, content: Content) -> GgufPlan:
    section, loaded = source.section, source.loaded
    if isinstance(section, SparsifySection):
        return plan_gguf(loaded, dict.fromkeys(content.tensors, DENSE_TYPES[loaded.model.dtype]))
    if content.experts:
        layers = find_routed(loaded.model, source.map)
        return drop_experts(plan_gguf(loaded, {}), {layer.block: content.experts[layer.path] for layer in layers})
    types = {} if isinstance(section, DropSection) else level_types(content.profile, content.levels)
    if not source.parts:
        return plan_gguf(loaded, types)
    gone: dict[str, set[int]] = {"attn": set(), "mlp": set()}
    for sublayer in content.dropped:
        gone[sublayer.kind].add(sublayer.block)
    return drop_sublayers(plan_gguf(loaded, types), attention=gone["attn"], mlp=gone["mlp"])
