"""Runs for llama.cpp: what is searched is what the file holds, at the size that was promised, for every family."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evopress
from evopress import pipeline
from evopress.core.profile import Profile
from evopress.errors import BudgetError, ConfigError, UnsupportedModel
from evopress.families import Drop, QuantizeGgml
from evopress.families.ggml import fallback_notes
from evopress.formats.format import Format
from evopress.formats.formats import FORMATS
from evopress.formats.gguf import gguf_names
from evopress.formats.verification import Verification
from evopress.levels.tensor_types import write_tensor_types
from evopress.run.directory import RunDirectory, read_run, start_run
from evopress.run.observer import Observer
from evopress.search.starts.drawn import random_start
from evopress.settings.resolve import resolve
from evopress.steps.strategies import Warmup, make_strategy
from evopress.steps.workspace import Workspace
from evopress.testing import gguf_config, merging_tokenizer, random_model

GGUF = FORMATS["gguf"]
# Numbers that transformers does not read from GGUF files are its defaults here.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "gemma2": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16},
    "gemma3_text": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16},
    "phi3": {},
}


def verified(format: Format, workspace: Workspace, profile: Profile, out: Path) -> Verification:
    """What the format's consumer makes of an export in `out`."""
    return format.verify(workspace.source, workspace.content(profile), out, workspace.searched(profile))


class Notes(Observer):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_checkpoint(path: Path, family: str = "llama", width: int = 64, blocks: int = 3) -> Path:
    random_model(gguf_config(family, width=width, blocks=blocks, **FAMILIES[family])).save_pretrained(path)
    merging_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def options(small_other: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run for llama.cpp in fp32, all but the model, the budget and the directory."""
    del small_other["model"]
    return small_other | {"target": "llamacpp", "dtype": "float32", "polish": "none"}


def built(path: Path, model: Path | str, options: dict[str, Any], **more: Any) -> Workspace:
    """A run with its database."""
    workspace = Workspace(start_run(path, resolve(str(model), **{"bits": 6} | options | more)), Notes())
    pipeline.build(workspace)
    return workspace


def write(workspace: Workspace, profile: Profile, out: Path) -> int:
    """Write and verify; the size of the file."""
    out.mkdir()
    GGUF.write(workspace.source, workspace.content(profile), out, lambda done, total: None)
    (out / "model.gguf.partial").rename(out / "model.gguf")
    result = verified(GGUF, workspace, profile, out)
    assert result.difference is not None
    assert not result.failed, result
    return (out / "model.gguf").stat().st_size


def random_profile(workspace: Workspace, seed: int) -> Profile:
    return workspace.space.decode(random_start(workspace.space, Random(seed)))


def test_one_command_makes_a_file_within_the_budget(tmp_path: Path, options: dict[str, Any]) -> None:
    model, notes = write_checkpoint(tmp_path / "model", width=256, blocks=1), Notes()
    run = evopress.quantize(str(model), bits=5, out=tmp_path / "run", observer=notes, **options)
    assert resolve(str(model), bits=5, **options).budget.counts == "bpw"
    rows = run.evaluation["profiles"]
    assert set(rows) == {"dense", "uniform", "dp", "Q4_K_S", "searched"}
    assert all(rows[name]["bpw"] <= 5 for name in set(rows) - {"dense"})
    file = tmp_path / "run" / "export" / "model.gguf"
    assert file.stat().st_size == rows["searched"]["bytes"]
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert types["blk.0.ffn_down.weight"] == run.profile["model.layers.0.mlp.down_proj"]
    assert types["token_embd.weight"] == run.profile["model.embed_tokens"]
    assert [note for note in notes.notes if "verified with transformers" in note]
    assert not [note for note in notes.notes if "does not fit" in note]


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_all_families_load_at_the_predicted_size(tmp_path: Path, options: dict[str, Any], family: str) -> None:
    workspace = built(tmp_path / "run", write_checkpoint(tmp_path / "model", family), options)
    profile = random_profile(workspace, 1)
    costs = GGUF.costs(workspace.source)
    added = costs.constant + sum(costs.levels[unit][level] for unit, level in profile.items())
    size = write(workspace, profile, tmp_path / "out")
    assert (
        size
        == GGUF.predicted_bytes(workspace.source, workspace.content(profile))
        == added
        == workspace.sizes(profile)["bytes"]
    )


def test_a_gguf_file_is_a_model_too(tmp_path: Path, options: dict[str, Any]) -> None:
    first = built(tmp_path / "first", write_checkpoint(tmp_path / "model"), options)
    write(first, random_profile(first, 1), tmp_path / "out")
    second = built(tmp_path / "second", tmp_path / "out" / "model.gguf", options)
    profile = random_profile(second, 2)
    predicted = GGUF.predicted_bytes(second.source, second.content(profile))
    assert write(second, profile, tmp_path / "again") == predicted


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Workspace:
    folder = tmp_path_factory.mktemp("gguf")
    few = {"sequence_length": 16, "calibration_tokens": 64, "search_tokens": 128, "heldout_tokens": 32}
    schedule = {"offspring": 2, "survivors": (1,), "tokens_per_stage": (32,), "start_tokens": 32}
    options = {"data": str(text), "target": "llamacpp", "dtype": "float32"} | few | schedule
    return built(folder / "run", write_checkpoint(folder / "model", width=128), options)


@settings(max_examples=20)
@given(data=st.data())
def test_the_size_is_the_sum_of_what_levels_cost(workspace: Workspace, data: st.DataObject) -> None:
    costs = GGUF.costs(workspace.source)
    choice = {unit.name: data.draw(st.sampled_from(unit.levels)).name for unit in workspace.space.units}
    profile = Profile.of(choice)
    added = costs.constant + sum(costs.levels[unit][level] for unit, level in choice.items())
    assert added == GGUF.predicted_bytes(workspace.source, workspace.content(profile))
    assert workspace.space.cost(profile) == 8 * (added - costs.constant)


def test_uniform_means_one_type_everywhere_or_what_stands_for_it(workspace: Workspace) -> None:
    space = workspace.space
    columns = {linear.name: linear.view.shape[1] for linear in workspace.map.linears}
    assert {columns[name] for name in space.names} == {128, 256}
    found = [{columns[name]: level for name, level in profile.items()} for profile in space.uniforms()]
    assert {128: "Q5_0", 256: "Q4_K"} in found
    assert {128: "IQ4_NL", 256: "Q2_K"} in found
    costs = [space.cost(profile) for profile in space.uniforms()]
    assert costs == sorted(set(costs))
    assert costs[0] == space.lowest


def test_mixes_are_profiles_where_the_levels_have_their_sizes(workspace: Workspace) -> None:
    application = workspace.family
    assert isinstance(application, QuantizeGgml)
    mix = application.mix("Q4_K_M")
    assert mix is not None
    assert mix["model.layers.0.mlp.down_proj"] == "Q4_K"
    assert (mix["model.layers.2.self_attn.v_proj"], mix["model.layers.0.self_attn.q_proj"]) == ("Q8_0", "Q5_0")
    assert mix["lm_head"] == "Q8_0"


def test_another_profile_than_the_searched_is_noticed(workspace: Workspace, tmp_path: Path) -> None:
    low, high = workspace.space.uniforms()[0], workspace.space.uniforms()[-1]
    write(workspace, high, tmp_path / "out")
    assert verified(GGUF, workspace, low, tmp_path / "out").failed
    (tmp_path / "out" / "model.gguf").write_bytes(b"no")
    assert verified(GGUF, workspace, high, tmp_path / "out").failed


def test_the_file_of_tensor_types_is_a_profile_again(workspace: Workspace, tmp_path: Path) -> None:
    profile, own = random_profile(workspace, 3), FORMATS["llama-quantize"]
    own.write(workspace.source, workspace.content(profile), tmp_path, lambda done, total: None)
    file = (tmp_path / "tensor-types.txt.partial").rename(tmp_path / "tensor-types.txt")
    assert not verified(own, workspace, profile, tmp_path).failed
    assert workspace.family.from_text(file.read_text()) == profile
    assert workspace.family.from_text(profile.to_text()) == profile
    other = workspace.space.uniforms()[0]
    assert verified(own, workspace, other, tmp_path).failed
    file.write_text(file.read_text().partition("\n")[0])
    assert "no rule" in verified(own, workspace, profile, tmp_path).reason
    assert own.predicted_bytes(workspace.source, workspace.content(profile)) == 0
    with pytest.raises(ConfigError, match="a size needs the file itself; use --format gguf"):
        own.costs(workspace.source)


def test_a_search_can_start_at_a_file_of_tensor_types(workspace: Workspace, tmp_path: Path) -> None:
    profile, file = workspace.space.uniforms()[0], tmp_path / "types.txt"
    names = gguf_names(workspace.loaded)
    types = {linear.view.parameter: profile[linear.name] for linear in workspace.map.linears}
    file.write_text(write_tensor_types(types, names))

    def first(path: Path) -> tuple[Profile, ...]:
        search = workspace.config.search.model_copy(update={"start_profile": str(path), "start": "uniform"})
        config = workspace.config.model_copy(update={"search": search})
        other = Workspace(RunDirectory(workspace.run.path, config), Observer())
        batch = make_strategy(other, Warmup(), 0).ask()
        assert batch is not None
        return batch.profiles

    assert profile in first(file)
    file.write_text(".*=q8_0")
    assert len(first(file)) > 3  # made to fit
    assert all(workspace.space.fits(one) for one in first(file))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_depth_for_llama_cpp(tmp_path: Path, options: dict[str, Any], family: str) -> None:
    model = write_checkpoint(tmp_path / "model", family)
    run = evopress.drop(str(model), fraction=0.34, out=tmp_path / "run", **options)
    assert run.profile["model.layers.0.attn"] == "keep"
    workspace = Workspace(read_run(tmp_path / "run"), Notes())
    file = tmp_path / "run" / "export" / "model.gguf"
    assert file.stat().st_size == GGUF.predicted_bytes(workspace.source, workspace.content(run.profile))
    assert isinstance(workspace.family, Drop)
    first = workspace.space.units[0]
    assert (first.name, [level.name for level in first.levels]) == ("model.layers.0.attn", ["keep"])
    result = GGUF.verify(
        workspace.source, workspace.content(run.profile), tmp_path / "run" / "export", workspace.searched(run.profile)
    )
    gone = {name.rpartition(".")[0] for name, level in run.profile.items() if level == "drop"}
    if family == "llama" and len(gone) == 2:
        assert "transformers does not read blocks without attention or MLP" in result.reason
    else:
        assert result.difference is not None
        assert not result.failed


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "F32"), ("bfloat16", "BF16")])
def test_sparse_files_hold_the_searched_zeros(tmp_path: Path, options: dict[str, Any], dtype: str, kind: str) -> None:
    model, notes = write_checkpoint(tmp_path / "model"), Notes()
    about = options | {"dtype": dtype, "method": "magnitude"}
    run = evopress.sparsify(str(model), sparsity=0.5, out=tmp_path / "run", observer=notes, **about)
    file = tmp_path / "run" / "export" / "model.gguf"
    workspace = Workspace(read_run(tmp_path / "run"), Notes())
    assert file.stat().st_size == GGUF.predicted_bytes(workspace.source, workspace.content(run.profile))
    assert [note for note in notes.notes if "verified with transformers" in note]
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    names, zeros = gguf_names(workspace.loaded), 0
    for linear in workspace.map.linears:
        tensor = written[names[linear.view.parameter]]
        assert tensor.tensor_type.name == kind
        zeros += int((gguf.quants.dequantize(tensor.data, tensor.tensor_type) == 0).sum())
    sizes = workspace.sizes(run.profile)
    assert zeros == round(sizes["sparsity"] * workspace.space.total_weights) > 0
    card = (file.parent / "README.md").read_text()
    assert f"{zeros:,} of {workspace.space.total_weights:,} weights of the compressed layers are exactly zero" in card


def test_whole_blocks_may_be_the_first(tmp_path: Path, options: dict[str, Any]) -> None:
    model = write_checkpoint(tmp_path / "model")
    config = resolve(str(model), fraction=0.34, granularity="block", **options)
    units = Workspace(start_run(tmp_path / "run", config), Observer()).space.units
    assert all(len(unit.levels) == 2 for unit in units)


def test_a_size_is_never_exceeded_and_nearly_met(tmp_path: Path, options: dict[str, Any]) -> None:
    model = str(write_checkpoint(tmp_path / "model"))
    with pytest.raises(BudgetError, match=r"no profile takes 1000 bytes; the levels allow (\d+) to (\d+)") as caught:
        evopress.quantize(model, size=1000, out=tmp_path / "none", **options)
    low, high = map(int, re.findall(r"allow (\d+) to (\d+)", str(caught.value))[0])
    size = (low + high) // 2
    run = evopress.quantize(model, size=size, out=tmp_path / "run", **options)
    found = (tmp_path / "run" / "export" / "model.gguf").stat().st_size
    assert size - 5000 < found == run.evaluation["profiles"]["searched"]["bytes"] <= size


def test_widths_that_do_not_fit_are_said_once_each(tmp_path: Path, options: dict[str, Any]) -> None:
    workspace = built(tmp_path / "run", write_checkpoint(tmp_path / "model"), options, levels=("Q3_K", "Q6_K", "Q8_0"))
    notes = [note for note in workspace.observer.notes if "does not fit" in note]  # type: ignore[attr-defined]
    assert notes == [
        "20 of 23 matrices are 64 wide, which does not fit Q3_K, Q6_K: Q4_0, Q8_0 instead, as llama-quantize does",
        "3 of 23 matrices are 128 wide, which does not fit Q3_K, Q6_K: Q4_0, Q8_0 instead, as llama-quantize does",
    ]
    assert fallback_notes(["Q8_0"], [(2, 64)]) == []


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"levels": ("Q9",)}, ConfigError, "ggml type 'Q9' is unknown, must be one of IQ1_S"),
        ({"method": "gptq", "levels": (3, 4)}, ConfigError, "method gptq does not make levels for llamacpp; use ggml"),
        ({"bits": 20}, BudgetError, "the average 20 cannot be met; the levels allow 4.5 to 8.5"),
    ],
    ids=["type", "method", "budget"],
)
def test_what_llama_cpp_has_not_is_refused(
    tmp_path: Path, options: dict[str, Any], more: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        _ = built(tmp_path / "run", write_checkpoint(tmp_path / "model"), options, **more).space


def test_models_that_gguf_does_not_hold_are_refused_before_any_work(tmp_path: Path, options: dict[str, Any]) -> None:
    from evopress.testing import write_pico_checkpoint

    write_pico_checkpoint(tmp_path / "model", "gpt2")
    with pytest.raises(UnsupportedModel, match="gpt2 models cannot be written as GGUF, only gemma2, "):
        built(tmp_path / "run", tmp_path / "model", options)
    assert not (tmp_path / "run" / "database").exists()
