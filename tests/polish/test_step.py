"""The step: polished levels of the same bytes beside a database that stays as it is, and what takes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from evopress import pipeline
from evopress.core.polish_record import read_record
from evopress.core.profile import Profile
from evopress.database.store import Database
from evopress.errors import ConfigError, EvopressError, NotEnoughTokens, ResourceError, RunError, RunMismatch
from evopress.polish.blocks import relative_error
from evopress.run.directory import RunDirectory, read_run, start_run
from evopress.run.observer import Observer
from evopress.run.records import read_profile
from evopress.settings.config import from_toml, to_toml
from evopress.settings.resolve import resolve
from evopress.steps.search import save
from evopress.steps.workspace import Workspace
from evopress.testing import merging_tokenizer, pico_model, pico_tokenizer, randomize
from evopress.testing.tiny import tiny_config
from evopress.text.tokens import Tokens

Fresh = Callable[[], RunDirectory]

POLISH = {
    "polish_epochs": 3,
    "polish_model_epochs": 3,
    "polish_batch": 64,
    "polish_tokens": 1024,
    "polish_watched": 64,
    "dtype": "float32",
}


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def changed(run: RunDirectory, **settings: Any) -> Workspace:
    """The run with other settings of the polish."""
    config = run.config.model_copy(update={"polish": run.config.polish.model_copy(update=settings)})
    (run.path / "config.toml").write_text(to_toml(config))
    return Workspace(read_run(run.path), Observer())


def levels_of(workspace: Workspace, profile: Profile) -> Database:
    """What exports take."""
    return workspace.polished(profile) or workspace.database


class Stop(Observer):
    """Ends the process, so to say, at the n-th report of progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_both_phases_gain_in_the_same_bytes_and_everything_takes_the_result(fresh: Fresh) -> None:
    run = fresh()
    database = content(run.database)
    pipeline.polish(Workspace(run, Observer()), "both")
    record = read_record(run.polished)
    assert record is not None
    assert record.result == "model"
    assert min(record.watched.values()) < record.watched["unpolished"]
    assert content(run.database) == database

    workspace, profile = Workspace(run, Observer()), read_profile(run.profile)
    levels = levels_of(workspace, profile)
    differ = 0
    for unit, level in profile.items():
        before, after = workspace.database.load(unit, level), levels.load(unit, level)
        assert (after.shape, after.storage_bits) == (before.shape, before.storage_bits)
        assert {k: (v.dtype, v.shape) for k, v in after.tensors().items()} == {
            k: (v.dtype, v.shape) for k, v in before.tensors().items()
        }
        differ += not torch.equal(after.dequantize(), before.dequantize())
        other = next(own.name for own in levels.manifest.units[unit].levels if own.name != level)
        assert torch.equal(levels.load(unit, other).dequantize(), workspace.database.load(unit, other).dequantize())
    assert differ > 10

    rows = pipeline.evaluate(workspace)["profiles"]
    assert list(rows)[-2:] == ["searched", "polished"]
    assert rows["polished"]["bytes"] == rows["searched"]["bytes"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]
    dense = pipeline.export(workspace, out=run.path / "hf", format="hf")
    weights = load_file(dense / "model.safetensors")
    for unit, level in profile.items():
        stored = weights[f"{unit}.weight"]
        assert torch.equal(stored, levels.load(unit, level).dequantize(stored.dtype))


def test_the_same_bytes_each_time_and_after_every_interruption(fresh: Fresh) -> None:
    def go(run: RunDirectory, observer: Observer) -> None:
        pipeline.polish(Workspace(run, observer), "both")

    whole = fresh()
    go(whole, Observer())
    expected = content(whole.polished)
    again = fresh()
    for after in (2, 6, 2, 2):  # in the sweep, between blocks, then between epochs
        with pytest.raises(KeyboardInterrupt):
            go(again, Stop(after))
    go(again, Observer())
    assert content(again.polished) == expected
    before = {path: path.stat().st_mtime_ns for path in again.polished.rglob("*")}
    go(again, Observer())
    assert {path: path.stat().st_mtime_ns for path in again.polished.rglob("*")} == before


def test_the_sweep_alone_makes_the_levels_again_in_the_same_bytes(fresh: Fresh) -> None:
    run = fresh()
    pipeline.polish(changed(run, polish_uniform=True), "sweep")
    uniform = read_record(run.polished_uniform)
    assert uniform is not None
    assert (uniform.done, uniform.result, list(uniform.watched)) == (True, None, ["unpolished"])
    record = read_record(run.polished)
    assert record is not None
    assert list(record.watched) == ["unpolished", "sweep"]
    assert record.result == ("sweep" if record.watched["sweep"] < record.watched["unpolished"] else None)
    made, base, profile = Database(run.polished / "sweep"), Database(run.database), read_profile(run.profile)
    made.verify()
    for unit, level in profile.items():
        [own] = made.manifest.units[unit].levels
        assert (own.name, own.storage_bits) == (level, base.manifest.units[unit].level(level).storage_bits)


def test_what_does_not_help_changes_nothing_and_is_said(fresh: Fresh) -> None:
    notes: list[str] = []

    class Notes(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    run = fresh()
    workspace = changed(run, polish_model_rate=0.5, polish_model_epochs=1)
    pipeline.polish(Workspace(workspace.run, Notes()), "model")
    record = read_record(run.polished)
    assert record is not None
    assert record.done
    assert record.result is None
    assert "levels stay as they are" in notes[-1]
    workspace = Workspace(workspace.run, Observer())
    assert levels_of(workspace, read_profile(run.profile)) is workspace.database
    assert "polished" not in pipeline.evaluate(workspace)["profiles"]


def test_the_uniform_profile_beside_the_searched_one(fresh: Fresh) -> None:
    run = fresh()
    workspace = changed(run, polish_uniform=True)
    pipeline.polish(workspace, "model")
    searched, uniform = read_profile(run.profile), workspace.space.uniform()
    assert uniform is not None
    for directory, profile in ((run.polished, searched), (run.polished_uniform, uniform)):
        record = read_record(directory)
        assert record is not None
        assert record.profile == dict(profile.items())
        assert record.result is not None
    rows = pipeline.evaluate(workspace)["profiles"]
    assert rows["uniform polished"]["kl"] < rows["uniform"]["kl"]
    assert rows["uniform polished"]["bytes"] == rows["uniform"]["bytes"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]


def test_another_profile_has_the_levels_of_the_database(fresh: Fresh) -> None:
    run = fresh()
    pipeline.polish(Workspace(run, Observer()), "blocks")
    workspace = Workspace(run, Observer())
    assert levels_of(workspace, workspace.space.uniform()) is workspace.database


def test_how_to_polish_may_change_until_it_is_done(fresh: Fresh) -> None:
    run = fresh()
    other = run.config.model_copy(update={"polish": run.config.polish.model_copy(update={"polish": "model"})})
    assert start_run(run.path, other).config == other == read_run(run.path).config
    pipeline.polish(Workspace(read_run(run.path), Observer()))
    assert start_run(run.path, other).config == other
    with pytest.raises(RunMismatch, match=r"polish\.polish: model -> blocks"):
        start_run(run.path, run.config)


def test_bad_input_in_one_line(fresh: Fresh, small_other: dict[str, Any], tmp_path: Path) -> None:
    def fails(error: type[EvopressError], match: str, action: Callable[[], Any]) -> None:
        with pytest.raises(error, match=match) as caught:
            action()
        assert "\n" not in str(caught.value)

    run, plain = fresh(), {"model": small_other["model"], "data": small_other["data"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "free_memory", 1000)
        fails(ResourceError, "the polish needs .* of memory and 1.0 kB are available; most of it is",
              lambda: pipeline.polish(Workspace(run, Observer())))  # fmt: skip
    assert not run.polished.exists()
    with pytest.MonkeyPatch.context() as patch:
        short = Tokens.of(Workspace(run, Observer()).splits.search.sequences[:1], "short.txt")
        patch.setattr(Workspace, "text_to_learn", lambda self, tokens: short)
        fails(NotEnoughTokens, "short.txt has one sequence of 16 tokens for a polish, which leaves nothing to watch",
              lambda: pipeline.polish(changed(run, polish_watched=16), "model"))  # fmt: skip
    pipeline.polish(changed(run, polish_watched=64), "blocks")
    fails(RunMismatch, "made with other settings .polish_code_rate: 0.1 -> 0.2.; delete it",
          lambda: pipeline.polish(changed(run, polish_code_rate=0.2), "blocks"))  # fmt: skip
    (run.polished / "polish.json").write_text("{}")
    fails(RunError, "is damaged", lambda: pipeline.polish(Workspace(run, Observer()), "blocks"))
    run.profile.unlink()
    fails(RunError, "run the search step first", lambda: pipeline.polish(Workspace(run, Observer())))
    fails(ConfigError, "the blocks of MXFP4, BF16 have no scale in floating point",
          lambda: resolve(**plain, bpw=8, method="ggml", levels=("MXFP4", "BF16"), polish="both"))  # fmt: skip
    fails(ConfigError, "--polish sweep cannot be done: rtn has no sweep; use blocks or model",
          lambda: resolve(**plain, bits=3, method="rtn", polish="sweep"))  # fmt: skip
    own = resolve(**plain, bits=3), resolve(**plain, fraction=0.25), resolve(**plain, bits=3, preset="paper")
    assert [config.polish.polish for config in own] == ["blocks", "blocks", "none"]
    old = to_toml(resolve(**plain, bits=3)).partition("\n[polish]")[0]
    assert from_toml(old, "old").polish.polish == "none"


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3, "levels": (2, 3, 4), "method": "rtn", "group_size": 20},
        {"bits": 3, "levels": (2, 3, 4), "group_size": 16, "embeddings": True, "symmetric": True},
        {"sparsity": 0.5},
        {"sparsity": 0.5, "pattern": "2:4", "method": "wanda"},
    ],
    ids=["rtn", "embeddings", "sparse", "2:4"],
)
def test_every_family_of_weights(small_other: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    run = pipeline.compress(
        out=tmp_path / "run",
        application="sparsity" if "sparsity" in options else "bits",
        **small_other | options | {**POLISH, "generations": 1, "polish": "both"},
    )
    rows = run.evaluation["profiles"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]
    assert rows["polished"]["bytes"] == rows["searched"]["bytes"]
    record = read_record(run.directory.polished)
    assert record is not None
    phase = Database(run.directory.polished / str(record.result))
    phase.verify()
    shutil.rmtree(run.directory.polished / str(record.result))
    with pytest.raises(EvopressError, match="no database"):
        Workspace(run.directory, Observer()).polished(run.profile)


def test_servers_formats_hold_the_polished_levels(small_other: dict[str, Any], tmp_path: Path) -> None:
    options = {"bits": 5, "levels": (4, 8), "group_size": 16, "symmetric": True, "polish": "model", "generations": 1}
    run = pipeline.quantize(out=tmp_path / "run", **small_other | POLISH | options)
    workspace = Workspace(run.directory, Observer())
    levels = levels_of(workspace, run.profile)
    assert levels is not workspace.database
    for format in ("gptq", "compressed-tensors"):  # which compares bytes with those predicted, and logits
        out = pipeline.export(workspace, format=format)
        stored = load_file(out / "model.safetensors")
        for unit, level in run.profile.items():
            packed: Any = levels.load(unit, level)
            scale = stored[f"{unit}.scales"].T if format == "gptq" else stored[f"{unit}.weight_scale"]
            assert torch.equal(scale.float(), packed.scale.float())


def test_scales_of_ggml_types_and_types_without_any_side_by_side(small_other: dict[str, Any], tmp_path: Path) -> None:
    pico_model("llama", width=64, vocabulary=300).save_pretrained(tmp_path / "model")
    merging_tokenizer().save_pretrained(tmp_path / "model")
    options = {"bpw": 6, "method": "ggml", "levels": ("Q4_0", "MXFP4", "Q5_1", "BF16")}
    own = small_other | POLISH | options | {"target": "llamacpp", "generations": 1}
    own |= {"model": str(tmp_path / "model"), "polish": "both"}
    run = pipeline.quantize(out=tmp_path / "run", **own)
    rows = run.evaluation["profiles"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]
    assert rows["polished"]["bytes"] == rows["searched"]["bytes"]
    workspace = Workspace(run.directory, Observer())
    for unit, level in run.profile.items():
        before, after = workspace.database.load(unit, level), levels_of(workspace, run.profile).load(unit, level)
        fixed = level in ("MXFP4", "BF16")
        assert torch.equal(before.dequantize(), after.dequantize()) == fixed, (unit, level)


@pytest.mark.parametrize("granularity", ["sublayer", "block"])
def test_what_stays_heals_what_was_dropped(granularity: str, small_other: dict[str, Any], tmp_path: Path) -> None:
    options = {"fraction": 0.34, "granularity": granularity, "polish": "both", "generations": 2}
    run = pipeline.drop(out=tmp_path / "run", **small_other | POLISH | options)
    rows = run.evaluation["profiles"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]
    assert rows["polished"]["bytes"] == rows["searched"]["bytes"]
    workspace = Workspace(run.directory, Observer())
    dense = {name: tensor.clone() for name, tensor in workspace.loaded.model.state_dict().items()}
    assert pipeline.evaluate(workspace)["profiles"] == rows  # from the files
    assert all(torch.equal(tensor, dense[name]) for name, tensor in workspace.loaded.model.state_dict().items())
    healed = workspace.polished(run.profile)
    assert healed is not None
    learns = workspace.family.learns(run.profile)
    assert healed.manifest.units.keys() == learns.keys()
    gone = {sub.writer for sub in workspace.sublayers if run.profile[sub.name if granularity == "sublayer" else
            f"model.layers.{sub.block}.attn+mlp"] == "drop"}  # fmt: skip
    assert gone
    assert not [name for name in learns if any(name.startswith(module) for module in gone)]
    if granularity == "block":  # the checkpoint is smaller, and its layers have moved up; the export has verified it
        assert workspace.family.left_out(run.profile)
    else:
        stored = load_file(run.directory.export / "model.safetensors")
        for name in learns:
            weight = stored[f"{name}.weight"]
            assert torch.equal(weight, healed.load(name, "keep").dequantize(weight.dtype))
            assert not torch.equal(weight, dense[f"{name}.weight"])


def test_blocks_behind_a_dropped_one_learn_from_what_reaches_them(small_other: dict[str, Any], tmp_path: Path) -> None:
    options = {"fraction": 0.34, "granularity": "block", "generations": 1, "polish": "none"}
    run = pipeline.drop(out=tmp_path / "run", **small_other | POLISH | options)
    workspace = changed(run.directory, polish="blocks")
    first, *others = run.profile.names
    save(workspace, Profile.of({first: "drop", **dict.fromkeys(others, "keep")}), 0.0, 0, "the first block is dropped")
    pipeline.polish(workspace)
    record = read_record(workspace.run.polished)
    assert record is not None
    runner, tokens = workspace.runner, workspace.text_to_learn(POLISH["polish_tokens"])
    errors = []
    for ids in tokens.sequences:
        embedded, contexts = runner.begin(ids[None])
        target = runner.block(1, runner.block(0, embedded, contexts), contexts)
        errors.append(relative_error(runner.block(1, embedded, contexts), target))
    assert record.blocks[1][0] == pytest.approx(float(torch.cat(errors, 1).mean()), rel=1e-4)
    assert record.blocks[1][1] < record.blocks[1][0]


def test_of_a_short_text_a_quarter_is_watched(fresh: Fresh) -> None:
    notes: list[str] = []

    class Notes(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    run = fresh()
    workspace = Workspace(changed(run, polish_watched=99999, polish_epochs=1).run, Notes())
    pipeline.polish(workspace, "blocks")
    total = workspace.text_to_learn(10**6).total
    assert any(f"has {total} tokens of the 448" in note and f"; {total // 4} of them are" in note for note in notes)


def test_a_model_that_keeps_its_state_in_fp32(small_other: dict[str, Any], tmp_path: Path) -> None:
    auto: Any = transformers.AutoModelForCausalLM
    randomize(auto.from_config(tiny_config("mamba"), dtype=torch.bfloat16)).save_pretrained(tmp_path / "model")
    pico_tokenizer().save_pretrained(tmp_path / "model")
    options = POLISH | {"dtype": "bfloat16", "polish": "both", "polish_epochs": 1, "polish_model_epochs": 1}
    own = {"model": str(tmp_path / "model"), "bits": 3, "group_size": 16, "levels": (2, 3, 4)}
    run = pipeline.quantize(out=tmp_path / "run", **small_other | options | own)
    rows = run.evaluation["profiles"]
    assert rows.get("polished", rows["searched"])["kl"] <= rows["searched"]["kl"]
