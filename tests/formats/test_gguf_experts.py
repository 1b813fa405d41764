"""Mixtures in GGUF files: stacks of one type, gate and up apart, in the bytes of the levels; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from evopress import pipeline
from evopress.core.profile import KEEP, Profile
from evopress.errors import ConfigError, EvopressError, ProfileError, UnsupportedModel
from evopress.formats.formats import FORMATS
from evopress.formats.gguf import export_gguf, plan_gguf, predicted_bytes
from evopress.formats.gguf_format import FILE
from evopress.formats.gguf_levels import level_types
from evopress.levels.ggml import Ggml
from evopress.models import LoadedModel
from evopress.models.experts import split_experts
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace
from evopress.testing import gguf_config, merging_tokenizer, random_model

EXPERTS: dict[str, Any] = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 64},
    "qwen3_moe": EXPERTS | {"norm_topk_prob": True},
}


def made(model_type: str, **options: Any) -> Any:
    return random_model(gguf_config(model_type, width=64, **MIXTURES[model_type] | options))


def loaded(model_type: str, **options: Any) -> LoadedModel:
    return LoadedModel(split_experts(made(model_type, **options)), merging_tokenizer(), "none", False)


def saved(model_type: str, path: Path) -> str:
    made(model_type).save_pretrained(path)
    merging_tokenizer().save_pretrained(path)
    return str(path)


def about_experts(model: Any) -> dict[str, torch.Tensor]:
    """Each stack of a file as the model that was not split has it: (experts, rows, columns)."""
    found = {}
    for block, layer in enumerate(model.model.layers):
        gate, up = layer.mlp.experts.gate_up_proj.detach().chunk(2, dim=1)
        own = {"gate": gate, "up": up, "down": layer.mlp.experts.down_proj.detach()}
        found |= {f"blk.{block}.ffn_{name}_exps.weight": tensor for name, tensor in own.items()}
    return found


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_dense_file_has_the_stacks_the_router_and_the_counts(model_type: str, tmp_path: Path) -> None:
    expected, plan = about_experts(made(model_type)), plan_gguf(loaded(model_type), {})
    export_gguf(tmp_path / FILE, plan, {})
    assert (tmp_path / FILE).stat().st_size == predicted_bytes(plan)
    reader = gguf.GGUFReader(tmp_path / FILE)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in expected.items():
        assert torch.equal(torch.from_numpy(tensors[name].data.copy()), tensor), name
    assert tensors["blk.0.ffn_gate_inp.weight"].tensor_type.name == "F32"
    said = {name.partition(".")[2]: field.contents() for name, field in reader.fields.items()}
    assert (said["expert_count"], said["expert_used_count"]) == (4, 2)
    assert said.get("expert_feed_forward_length") == (64 if model_type.startswith("qwen") else None)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
def test_searched_experts_lie_in_their_stacks_as_they_lie_in_the_database(
    model_type: str, small_other: dict[str, Any], tmp_path: Path
) -> None:
    own = {"model": saved(model_type, tmp_path / "model"), "target": "llamacpp", "levels": ("Q4_0", "Q8_0"), "bpw": 6}
    run = pipeline.quantize(
        out=tmp_path / "run", **small_other | own | {"dtype": "float32"}
    )  # verified where it can be
    workspace = Workspace(run.directory, Observer())
    assert {linear.experts for linear in workspace.map.linears if linear.experts} <= {
        unit.name.rpartition(".")[0] for unit in workspace.space.units
    }
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(run.directory.export / FILE).tensors}
    levels = dict(run.profile.items())
    for block in range(2):
        for name, matrix, half in (("gate", "gate_up_proj", 0), ("up", "gate_up_proj", 1), ("down", "down_proj", None)):
            units = [f"model.layers.{block}.mlp.experts.{number}.{matrix}" for number in range(4)]
            packed = [workspace.database.load(unit, levels[unit]) for unit in units]
            assert all(isinstance(one, Ggml) for one in packed)
            data = [one.data if half is None else one.data.chunk(2)[half] for one in packed]  # type: ignore[union-attr]
            stored = tensors[f"blk.{block}.ffn_{name}_exps.weight"]
            assert torch.equal(torch.from_numpy(stored.data.copy()), torch.stack(data)), stored.name
    assert not (run.directory.export / f"{FILE}.partial").exists()
    costs = workspace.files
    bound = costs.constant + sum(costs.levels[unit][level] for unit, level in run.profile.items())
    size = (run.directory.export / FILE).stat().st_size
    assert size <= bound <= size + 64 * len(levels)


@pytest.mark.parametrize("model_type", ["qwen2_moe", "mixtral"])
def test_files_hold_the_experts_that_stay(model_type: str, small_other: dict[str, Any], tmp_path: Path) -> None:
    own = {"model": saved(model_type, tmp_path / "model"), "target": "llamacpp", "granularity": "expert"}
    run = pipeline.drop(  # verified where transformers reads the file
        out=tmp_path / "run", **small_other | own | {"fraction": 0.25, "dtype": "float32"}
    )
    file = run.directory.export / FILE
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    said = {name.partition(".")[2]: field.contents() for name, field in reader.fields.items()}
    assert (said["expert_count"], said["expert_used_count"]) == (3, 2)
    dense = made(model_type)
    stacks = about_experts(dense)
    for block, layer in enumerate(dense.model.layers):
        stays = [n for n in range(4) if run.profile[f"model.layers.{block}.mlp.experts.{n}"] == KEEP]
        assert torch.equal(tensors[f"blk.{block}.ffn_gate_inp.weight"], layer.mlp.gate.weight.detach()[stays])
        for name in (f"blk.{block}.ffn_{what}_exps.weight" for what in ("gate", "up", "down")):
            assert torch.equal(tensors[name], stacks[name][stays])


def test_experts_of_one_stack_have_one_type(small_other: dict[str, Any], tmp_path: Path) -> None:
    own = {"model": saved("qwen3_moe", tmp_path / "model"), "target": "llamacpp", "levels": ("Q4_0", "Q8_0"), "bpw": 6}
    workspace = Workspace(start_run(tmp_path / "run", resolve(**small_other | own)), Observer())
    pipeline.build(workspace)
    names = [linear.name for linear in workspace.map.linears]
    profile = Profile.of({name: "Q8_0" if ".3.down_proj" in name else "Q4_0" for name in names})
    with pytest.raises(
        ProfileError, match=r"ffn_down_exps\.weight has one type for all its experts, not Q4_0, Q8_0; use"
    ):
        plan_gguf(workspace.loaded, level_types(profile, workspace.database))


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is False, llama.cpp computes with True in qwen3moe"),
        ("qwen2_moe", {"mlp_only_layers": [1]}, "some blocks have no experts; llama.cpp wants them in all"),
        ("olmoe", {"clip_qkv": 2.0}, "clip_qkv is 2.0"),
        ("olmoe", {"num_key_value_heads": 2}, "4 heads share 2 keys"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(model_type: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        plan_gguf(loaded(model_type, **options), {})


@pytest.mark.parametrize(
    ("own", "format", "message"),
    [
        ({"bits": 4, "target": None}, "gguf", "one type for a matrix of all experts of a layer; make the run with"),
        ({"fraction": 0.5, "granularity": "sublayer"}, "gguf", "no GGUF layout without some attentions or MLPs"),
        ({"bpw": 6}, "llama-quantize", "llama-quantize does not hold experts; use gguf"),
    ],
)
def test_what_no_file_can_say_is_refused(
    own: dict[str, Any], format: str, message: str, small_other: dict[str, Any], tmp_path: Path
) -> None:
    config = resolve(**small_other | {"model": saved("mixtral", tmp_path / "model"), "target": "llamacpp"} | own)
    workspace = Workspace(start_run(tmp_path / "run", config), Observer())
    kinds: tuple[type[EvopressError], ...] = (ConfigError, UnsupportedModel)
    with pytest.raises(kinds, match=message):
        FORMATS[format].check(workspace.plain_source)
