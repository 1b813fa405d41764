"""The formats of llama.cpp: a GGUF file with the searched levels, and llama-quantize's file of tensor types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evopress.depth import sublayer_levels
from evopress.errors import ConfigError, ModelError, ProfileError
from evopress.export.about import About
from evopress.export.format import FileCosts
from evopress.export.gguf import (
    DENSE_TYPES,
    GgufPlan,
    Packs,
    export_gguf,
    gguf_names,
    padded,
    plan_gguf,
    predicted_bytes,
)
from evopress.export.gguf_depth import depth_costs, drop_sublayers
from evopress.export.gguf_levels import dense_packs, level_packs, level_types
from evopress.export.hf import stored_zeros
from evopress.export.shards import Progress
from evopress.export.staging import hidden
from evopress.export.tensor_types import read_tensor_types, write_tensor_types
from evopress.export.verification import (
    HALF_TOLERANCE,
    Verification,
    compare,
    logits,
    no_room,
    probe,
    searched_logits,
)
from evopress.files import write_text
from evopress.ggml_types import fitting_types, row_bytes
from evopress.models import load_model
from evopress.models.bypass import DROP
from evopress.models.sublayers import group_sublayers
from evopress.profile import Profile
from evopress.search.presets import ApplicationName
from evopress.sections import DropSection, QuantizeSection, SparsifySection

if TYPE_CHECKING:
    from evopress.workspace import Workspace

FILE = "model.gguf"
TYPES_FILE = "tensor-types.txt"
TOLERANCE = 1e-4  # Gemma's norms are stored plus one and come back less one, each rounded to fp32


class Gguf:
    """Implements `Format`: one file, whose every byte is known beforehand."""

    name = "gguf"
    applications: tuple[ApplicationName, ...] = ("bits", "sparsity", "depth")

    def check(self, workspace: Workspace) -> None:
        """UnsupportedModel for an architecture that llama.cpp does not have, or computes otherwise."""
        plan_gguf(workspace.loaded, {})

    def predicted_bytes(self, workspace: Workspace, profile: Profile) -> int:
        """Header, levels, and what is left dense, each padded."""
        return predicted_bytes(_plan(workspace, profile))

    def costs(self, workspace: Workspace) -> FileCosts:
        """Exact for types, on which the header does not depend, a little more for dropped parts. Needs no database."""
        section = workspace.config.compression
        if isinstance(section, DropSection):
            units = group_sublayers(workspace.sublayers, section.granularity)
            return depth_costs(plan_gguf(workspace.loaded, {}), units)
        if not isinstance(section, QuantizeSection) or section.method != "ggml":
            raise ConfigError("a size of a GGUF file needs levels that are ggml types; use --target llamacpp")
        levels, types = {}, {}
        for linear in workspace.map.linears:
            rows, columns = linear.view.shape
            own = {kind: padded(rows * row_bytes(kind, columns)) for kind in fitting_types(section.levels, columns)}
            levels[linear.name], types[linear.view.parameter] = own, next(iter(own))
        least = sum(next(iter(own.values())) for own in levels.values())
        return FileCosts(predicted_bytes(plan_gguf(workspace.loaded, types)) - least, levels)

    def write(self, workspace: Workspace, profile: Profile, out: Path, progress: Progress) -> None:
        """OUT/model.gguf, whose levels are the database's bytes, or zeros among numbers of the model's own dtype."""
        packs: Packs = {}
        if isinstance(workspace.config.compression, QuantizeSection):
            packs = level_packs(profile, workspace.levels(profile))
        elif isinstance(workspace.config.compression, SparsifySection):
            packs = dense_packs(workspace.application.tensors(profile), workspace.loaded.model.dtype)
        export_gguf(hidden(out / FILE), _plan(workspace, profile), packs, progress=progress)

    def about(self, workspace: Workspace, profile: Profile) -> About:
        """llama.cpp's server, what was dropped, and that zeros are stored."""
        sizes, notes = workspace.application.sizes(profile), []
        if isinstance(workspace.config.compression, SparsifySection):
            notes.append(stored_zeros(workspace, profile))
        if isinstance(workspace.config.compression, DropSection):
            notes.append(
                f"{sizes['dropped_attn']} attentions and {sizes['dropped_mlp']} MLPs are not in the file, or zeros "
                "where llama.cpp has no layout without them."
            )
        return About("gguf", (("With llama.cpp", f"llama-server -m DIRECTORY/{FILE}"),), tuple(notes))

    def verify(self, workspace: Workspace, profile: Profile, out: Path) -> Verification:
        """Load it with transformers, which reads all but the `deci` layout."""
        if _plan(workspace, profile).architecture == "deci":
            reason = "transformers does not read blocks without attention or MLP; scripts/llama_cpp_logits.py does"
            return Verification("transformers", None, 0.0, reason)
        model = workspace.loaded.model
        tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
        if reason := no_room(workspace):
            return Verification("transformers", None, tolerance, reason)
        ids = probe(model.get_input_embeddings().weight.shape[0])
        expected = searched_logits(workspace, profile, ids)
        try:
            found = load_model(str(out / FILE), dtype=model.dtype, device=workspace.device).model
        except ModelError as error:
            return Verification("transformers", float("nan"), tolerance, str(error))
        return compare("transformers", expected, logits(found, ids), tolerance)


class LlamaQuantize:
    """Implements `Format`: no weights, but which type llama-quantize shall give each of them."""

    name = "llama-quantize"
    applications: tuple[ApplicationName, ...] = ("bits",)

    def check(self, workspace: Workspace) -> None:
        """UnsupportedModel for an architecture that llama.cpp does not have."""
        gguf_names(workspace.loaded)

    def predicted_bytes(self, workspace: Workspace, profile: Profile) -> int:
        """No file holds weights."""
        return 0

    def costs(self, workspace: Workspace) -> FileCosts:
        """ConfigError: the file that llama-quantize makes of it is that of the format gguf."""
        raise ConfigError("a size needs the file itself; use --format gguf")

    def write(self, workspace: Workspace, profile: Profile, out: Path, progress: Progress) -> None:
        """OUT/tensor-types.txt."""
        text = write_tensor_types(level_types(profile, workspace.database), gguf_names(workspace.loaded))
        write_text(hidden(out / TYPES_FILE), text)

    def about(self, workspace: Workspace, profile: Profile) -> About:
        """llama-quantize's command."""
        command = f"llama-quantize --tensor-type-file DIRECTORY/{TYPES_FILE} model-f16.gguf model.gguf Q4_K"
        return About("gguf", (("With llama.cpp, from a GGUF file of the model in half precision", command),))

    def verify(self, workspace: Workspace, profile: Profile, out: Path) -> Verification:
        """Read it as llama-quantize reads it: it must name the same types."""
        text = (out / TYPES_FILE).read_text(encoding="utf-8")
        try:
            found = read_tensor_types(text, workspace.map, gguf_names(workspace.loaded))
        except ProfileError as error:
            return Verification("its own rules", float("nan"), 0.0, str(error))
        if found != profile:
            return Verification("its own rules", float("nan"), 0.0, f"{TYPES_FILE} names other types")
        return Verification("its own rules", None, 0.0, f"{TYPES_FILE} holds no weights; read again it is the profile")


def _plan(workspace: Workspace, profile: Profile) -> GgufPlan:
    section, loaded = workspace.config.compression, workspace.loaded
    if isinstance(section, SparsifySection):
        names = workspace.application.tensors(profile)
        return plan_gguf(loaded, dict.fromkeys(names, DENSE_TYPES[loaded.model.dtype]))
    if not isinstance(section, DropSection):
        return plan_gguf(loaded, level_types(profile, workspace.database))
    sublayers = workspace.sublayers
    levels = sublayer_levels(dict(profile.items()), sublayers, section.granularity)
    gone: dict[str, set[int]] = {"attn": set(), "mlp": set()}
    for sublayer in sublayers:
        if levels[sublayer.name] == DROP:
            gone[sublayer.kind].add(sublayer.block)
    return drop_sublayers(plan_gguf(loaded, {}), attention=gone["attn"], mlp=gone["mlp"])
