"""Packed experts: under their own names, in the bytes of their levels, and refused where a format cannot say them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evopress import pipeline
from evopress.core.profile import DENSE, Profile
from evopress.errors import ConfigError, EvopressError, UnsupportedModel
from evopress.formats.formats import FORMATS
from evopress.formats.shards import weight_bytes
from evopress.formats.staging import staged
from evopress.formats.unpacked import unpacked
from evopress.formats.verification import verify_checkpoint
from evopress.models.experts import places
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

Mixture = Callable[[str], str]
VLLM: dict[str, Any] = {"target": "vllm", "group_size": 32, "method": "rtn", "dtype": "float32"}
NAMES = {  # model type -> where its files have experts, and what they call their matrices
    "qwen3_moe": ("model.layers.{}.mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "mixtral": ("model.layers.{}.block_sparse_moe.experts", ("w1", "w3", "w2")),
    "nemotron_h": ("backbone.layers.{}.mixer.experts", ("up_proj", "down_proj")),
}


def opened(directory: Path, **options: Any) -> Workspace:
    workspace = Workspace(start_run(directory, resolve(**options)), Observer())
    pipeline.build(workspace)
    return workspace


def mixed(workspace: Workspace, *levels: str) -> Profile:
    """These levels for the experts of one layer after the other, and for all else."""
    names = dict.fromkeys(linear.experts for linear in workspace.map.linears)
    own = {name: levels[place % len(levels)] for place, name in enumerate(names)}
    return Profile.of({linear.name: own[linear.experts] for linear in workspace.map.linears})


def exported(workspace: Workspace, profile: Profile, out: Path, format: str) -> Path:
    chosen = FORMATS[format]
    chosen.check(workspace.plain_source)
    with staged(out, 0) as partial:
        chosen.write(workspace.source, workspace.content(profile), partial, lambda done, total: None)
    assert weight_bytes(out) == chosen.predicted_bytes(workspace.source, workspace.content(profile))
    return out


@pytest.mark.parametrize("model_type", NAMES)
def test_packed_experts_have_the_names_of_the_files_and_the_searched_weights(
    model_type: str, small_other: dict[str, Any], tmp_path: Path, mixture: Mixture
) -> None:
    own = {"model": mixture(model_type), "levels": (4, 8, 16), "bits": 8}
    workspace = opened(tmp_path / "run", **small_other | VLLM | own)
    profile = mixed(workspace, "8", "4", DENSE)
    out = exported(workspace, profile, tmp_path / "export", "compressed-tensors")
    costs = workspace.files
    bound = costs.constant + sum(costs.levels[unit][level] for unit, level in profile.items())
    assert weight_bytes(out) <= bound <= weight_bytes(out) + 300 * len(profile)
    layers = dict.fromkeys(linear.experts for linear in workspace.map.linears if linear.experts)
    path, matrices = NAMES[model_type]
    files = load_file(out / "model.safetensors")
    for layer in layers:
        dense = dict(profile.items())[f"{layer}.0.down_proj"] == DENSE
        block = next(number for number in layer.split(".") if number.isdecimal())
        for matrix in matrices:
            assert f"{path.format(block)}.3.{matrix}.{'weight' if dense else 'weight_packed'}" in files
    found = dense_state(workspace, out)
    for unit, level in profile.items():
        if level != DENSE:
            expected = workspace.database.load(unit, level).dequantize(torch.float32)
            assert torch.equal(found[f"{unit}.weight"], expected), unit
    result = FORMATS["compressed-tensors"].verify(
        workspace.source, workspace.content(profile), out, workspace.searched(profile)
    )
    assert not result.failed, result


def dense_state(workspace: Workspace, out: Path) -> dict[str, torch.Tensor]:
    """The tensors of an export by the names of the searched model's state."""
    dense, loaded = unpacked(out), workspace.loaded
    assert loaded.files is not None
    found = {own: dense[name] for own, name in loaded.files.names.items()}
    for name, place in places(loaded.model).items():
        found[name] = torch.cat([dense[part] for part in loaded.files.experts[place.stack(name)][place.number]])
    return found


def test_transformers_loads_experts_of_one_level(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    workspace = opened(tmp_path / "run", **small_other | VLLM | {"model": mixture("qwen3_moe"), "bits": 6})
    same, other = mixed(workspace, "4"), mixed(workspace, "8", "4")
    chosen = FORMATS["compressed-tensors"]
    for profile, loads in ((same, True), (other, False)):
        out = exported(workspace, profile, tmp_path / f"export-{loads}", "compressed-tensors")
        content, searched = workspace.content(profile), workspace.searched(profile)
        assert not chosen.verify(workspace.source, content, out, searched).failed
        assert chosen.about(workspace.source, content).library == ("transformers" if loads else "vllm")
        plain = verify_checkpoint(workspace.loaded.model, out, searched)
        assert plain.failed is not loads  # why experts of several levels are not verified so


@pytest.mark.parametrize(
    ("model_type", "own", "kind", "message"),
    [
        ("mixtral", {"target": "transformers"}, UnsupportedModel, "only if those of all layers have one level"),
        ("gpt_oss", {}, UnsupportedModel, r"files, which have model\.layers\.0\.mlp\.experts in stacks; use hf"),
    ],
)
def test_what_cannot_be_said_of_experts_is_refused_before_any_work(
    model_type: str,
    own: dict[str, Any],
    kind: type[EvopressError],
    message: str,
    small_other: dict[str, Any],
    tmp_path: Path,
    mixture: Mixture,
) -> None:
    with pytest.raises(kind, match=message):
        pipeline.quantize(out=tmp_path / "run", **small_other | VLLM | {"model": mixture(model_type), "bits": 6} | own)


def test_levels_of_single_experts_are_not_packed(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    own = {"model": mixture("mixtral"), "bits": 6, "target": None, "symmetric": True, "levels": (4, 8)}
    workspace = Workspace(start_run(tmp_path / "run", resolve(**small_other | VLLM | own)), Observer())
    with pytest.raises(ConfigError, match="one level for all experts of a layer; make the run with --experts layer"):
        FORMATS["compressed-tensors"].check(workspace.plain_source)


def test_gptq_holds_no_experts(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    config = resolve(**small_other | VLLM | {"model": mixture("mixtral"), "bits": 6})
    workspace = Workspace(start_run(tmp_path / "run", config), Observer())
    with pytest.raises(
        UnsupportedModel, match=r"gptq does not hold experts, such as model\.layers\.0\.mlp\.experts\.0"
    ):
        FORMATS["gptq"].check(workspace.plain_source)
