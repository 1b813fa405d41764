"""Experts as linears of their own: the same answers and the same numbers, and what each of them sees."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from evopress import pipeline
from evopress.database.store import Database
from evopress.errors import UnsupportedModel
from evopress.levels.hessian import Hessian, Inputs, lean_on_each_other
from evopress.models import Runner, describe, find_sublayers, load_model
from evopress.models.batches import batches
from evopress.models.capture import Rows, collect_inputs
from evopress.models.experts import Experts, split_experts, whole_state
from evopress.models.memory import measure_shapes, sensitivity_memory
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace
from evopress.testing import randomize
from evopress.testing.tiny import tiny_config

Mixture = Callable[[str], str]
WAYS = {
    "mixtral": "one stack for gate and up",
    "gpt_oss": "transposed, with biases, gate and up interleaved",
    "nemotron_h": "no gate",
    "deepseek_v3": "a dense block before those with experts, experts that are shared",
    "qwen2_moe": "a gate for the shared expert",
    "lfm2_moe": "beside a convolution",
    "llama4_text": "rows dealt out to all experts",
}


def make(model_type: str) -> Any:
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers does not know {model_type}")
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(tiny_config(model_type), dtype=torch.float32).eval()
    randomize(model)
    return model


@pytest.mark.parametrize("model_type", WAYS)
def test_a_split_model_answers_as_before_from_the_same_memory(model_type: str) -> None:
    model, ids = make(model_type), torch.arange(20, 44).view(2, 12)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    memory = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        found = split_experts(model)(ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()} <= memory
    whole = whole_state(model)
    assert whole.keys() == state.keys()
    assert all(torch.equal(whole[name], state[name]) for name in state)
    mapped = describe(model)
    Runner(model, mapped)
    layers = [name for name, module in model.named_modules() if isinstance(module, Experts)]
    assert {linear.experts for linear in mapped.linears} - {""} == set(layers)
    assert mapped.share > 0.9
    assert not [linear for linear in mapped.linears if linear.role.endswith(("router", "mlp.gate"))]


def test_experts_that_compute_otherwise_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("mixtral")
    layer = type(model.model.layers[0].mlp.experts)
    own = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda self, hidden, index, weights: own(self, hidden, index, weights) + hidden
    )
    with pytest.raises(UnsupportedModel, match=r"experts\.gate_up_proj holds 4 experts; experts that are built so are"):
        describe(split_experts(model))
    assert "model.layers.0.mlp.experts.gate_up_proj" in model.state_dict()


def test_each_expert_sees_the_tokens_that_its_router_sends(text_ids: Tensor) -> None:
    model: Any = split_experts(make("qwen3_moe"))
    mapped, layer = describe(model), model.model.layers[1].mlp
    runner, sent = Runner(model, mapped), []
    layer.experts.register_forward_pre_hook(lambda module, args: sent.append(args))
    names = [
        f"model.layers.1.mlp.experts.{number}.{own}" for number in range(4) for own in ("gate_up_proj", "down_proj")
    ]
    hidden, contexts = runner.begin(text_ids)
    hidden = runner.block(0, hidden, contexts)
    with collect_inputs(model, mapped, 1, rows := Rows(names)):
        runner.block(1, hidden, contexts)
    states, chosen, _ = sent[0]
    for number in range(4):
        one, up, inner = layer.experts[str(number)], f"model.layers.1.mlp.experts.{number}.gate_up_proj", []
        tokens = [place for place, own in enumerate(chosen.tolist()) if number in own]  # token by token
        assert torch.equal(rows.of(up), states[tokens])
        for place in tokens:
            gate, other = one.gate_up_proj(states[place]).chunk(2)
            inner.append(torch.nn.functional.silu(gate) * other)
        found = rows.of(up.replace("gate_up_proj", "down_proj"))
        assert torch.allclose(found, torch.stack(inner) if inner else found, atol=1e-5)


@pytest.fixture
def text_ids() -> Tensor:
    return torch.randint(4, 90, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seen", [0, 1, 5, 8, 12])
def test_an_expert_of_few_tokens_leans_on_the_others(seen: int) -> None:
    generator = torch.Generator().manual_seed(seen)
    parts = [torch.randn(count, 8, generator=generator) for count in (seen, 20, 9)]
    hessians = []
    for part in parts:
        hessians.append(Hessian(8))
        hessians[-1].add(part)
    lean_on_each_other(hessians)
    own, together = parts[0].double(), torch.cat(parts).double()
    share = max(0.0, 1 - seen / 8)
    expected = share * together.T @ together / len(together)
    if seen:
        expected += (1 - share) * own.T @ own / seen
    assert torch.allclose(hessians[0].matrix.double(), expected, atol=1e-5)
    assert torch.allclose(hessians[1].matrix, parts[1].T @ parts[1] / 20, atol=1e-5)


def test_without_any_token_nothing_changes() -> None:
    lean_on_each_other(hessians := [Hessian(3), Hessian(3)])
    assert not any(own.matrix.any() for own in hessians)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_levels_of_experts_are_exported_and_read_again(
    model_type: str, small: dict[str, Any], tmp_path: Path, mixture: Mixture
) -> None:
    source = mixture(model_type)
    own = {"model": source, "group_size": 16, "dtype": "float32"}
    run = pipeline.quantize(out=tmp_path / "run", **small | own)
    export = load_file(run.directory.export / "model.safetensors")
    dense = load_file(Path(source) / "model.safetensors")
    assert export.keys() == dense.keys()
    workspace = Workspace(run.directory, Observer())
    units = workspace.database.manifest.units
    inside = [unit for name, unit in units.items() if ".experts." in name]
    tokens = workspace.splits.calibration.total * 2  # each token has two experts
    assert len(inside) == 4 * 4 * 2
    assert sum(unit.tokens or 0 for unit in inside) == 4 * 2 * tokens
    assert {unit.tokens for unit in units.values() if unit not in inside} == {None}
    read = load_model(str(run.directory.export), dtype=torch.float32)
    for name, level in run.profile.items():
        weight = read.model.get_parameter(f"{name}.weight")
        assert torch.equal(weight, workspace.database.load(name, level).dequantize(torch.float32)), name
    auto: Any = transformers.AutoModelForCausalLM
    plain = auto.from_pretrained(run.directory.export, dtype=torch.float32).eval()
    ids = torch.arange(20, 36)[None]
    with torch.no_grad():
        expected, found = read.model(ids).logits, plain(ids).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    small: dict[str, Any], tmp_path: Path, mixture: Mixture
) -> None:
    class Stop(Exception):
        pass

    options = small | {"model": mixture("mixtral"), "group_size": 16}
    whole = Workspace(start_run(tmp_path / "whole", resolve(**options)), Observer())
    pipeline.build(whole)
    cut = Workspace(start_run(tmp_path / "cut", resolve(**options)), Observer())
    with pytest.MonkeyPatch.context() as patch:
        build: Any = importlib.import_module("evopress.database.build")
        write, left = build.write_unit, iter(range(9))

        def failing(*args: Any) -> Any:
            if next(left, None) is None:
                raise Stop
            return write(*args)

        patch.setattr(build, "write_unit", failing)
        with pytest.raises(Stop):
            pipeline.build(cut)
    pipeline.build(Workspace(cut.run, Observer()))
    assert Database(cut.run.database).manifest == Database(whole.run.database).manifest


def test_blocks_and_mixtures_are_dropped(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    source = mixture("deepseek_v3")
    model = load_model(source, dtype=torch.float32).model
    names = [sublayer.name for sublayer in find_sublayers(model, describe(model))]
    assert names == [f"model.layers.{block}.{kind}" for block in range(4) for kind in ("attn", "mlp")]
    options = small_other | {"model": source, "fraction": 0.25, "granularity": "block"}
    run = pipeline.drop(out=tmp_path / "run", **options)  # whose export is verified
    assert transformers.AutoConfig.from_pretrained(run.directory.export).num_hidden_layers == 3


def test_memory_counts_the_tokens_that_reach_an_expert() -> None:
    model = split_experts(make("olmoe"))
    shapes = measure_shapes(model, describe(model))
    assert sorted(set(shapes.reach)) == [0.5, 1.0]  # two of four
    assert len(shapes.groups) == 2 + 4 * 2
    whole = replace(shapes, reach=())
    inside = sum(rows for share, (_, rows) in zip(shapes.reach, shapes.groups, strict=True) if share < 1)
    assert whole.seen(lambda columns, rows: rows) - shapes.seen(lambda columns, rows: rows) == inside // 2
    needs, more = sensitivity_memory(shapes, 1000), sensitivity_memory(whole, 1000)
    assert needs["gradients of one block"] < more["gradients of one block"]


def test_experts_share_levels(small: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    own = {"model": mixture("mixtral"), "group_size": 16, "database": str(tmp_path / "database")}
    for how, count in (("each", 12), ("matrix", 6), ("layer", 5)):
        config = resolve(**small | own | {"experts": how})
        workspace = Workspace(start_run(tmp_path / how, config), Observer())
        pipeline.build(workspace)
        tied = {unit.name: (unit.role, len(unit.parts)) for unit in workspace.space.units}
        assert len(tied) == 4 * count
        path = {"each": "mlp.experts.0.down_proj", "matrix": "mlp.experts.down_proj", "layer": "mlp.experts"}[how]
        assert tied[f"model.layers.0.{path}"] == (path, {"each": 1, "matrix": 4, "layer": 8}[how])


def test_the_build_makes_an_expert_of_few_tokens_for_those_of_its_layer(
    small: dict[str, Any], tmp_path: Path, mixture: Mixture
) -> None:
    own = {"model": mixture("mixtral"), "group_size": 16, "calibration_tokens": 32}
    workspace = Workspace(start_run(tmp_path / "run", resolve(**small | own | {"dtype": "float32"})), Observer())
    pipeline.build(workspace)
    runner, path = workspace.runner, "model.layers.0.mlp.experts"
    names, hessians = [f"{path}.{number}.down_proj" for number in range(4)], []
    for ids in batches(workspace.splits.calibration.sequences, workspace.batch_tokens):
        hidden, contexts = runner.begin(ids)  # the first block sees the same in both models
        with collect_inputs(runner.model, runner.map, 0, rows := Rows(names)):
            runner.block(0, hidden, contexts)
    for name in names:
        hessians.append(Hessian(runner.map.of_block(0)[-1].view.shape[1]))
        hessians[-1].add(rows.of(name))
    assert min(own.tokens for own in hessians) < 32
    lean_on_each_other(hessians)
    method = workspace.family.method
    assert method is not None
    for linear in runner.map.of_block(0):
        if linear.name in names:
            inputs = Inputs(hessians[names.index(linear.name)].matrix)
            [levels] = method.compress([linear.name], [runner.weight(linear)], inputs)
            for name, level in levels.items():
                stored = workspace.database.load(linear.name, name)
                assert torch.equal(stored.dequantize(), level.tensor.dequantize()), (linear.name, name)
