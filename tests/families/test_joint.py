"""Levels and drops in one search: exact budgets, exports that are the searched model, and one line for bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import evopress
from evopress.cli.watch import frame
from evopress.core.polish_record import read_record
from evopress.core.profile import DROP, Profile
from evopress.errors import BudgetError, ConfigError, UnsupportedModel
from evopress.fitness.divergence import KL
from evopress.formats.shards import weight_bytes
from evopress.pipeline import Run
from evopress.report import read_data
from evopress.report.allocation import by_level, by_role, bytes_of, cells
from evopress.report.page import render
from evopress.report.summary import summarize
from evopress.run.directory import read_run, start_run
from evopress.run.observer import Observer
from evopress.settings.config import from_toml, to_toml
from evopress.settings.resolve import resolve
from evopress.steps.analyze import Sizes, analyze
from evopress.steps.compare import compare
from evopress.steps.strategies import make_strategy, warm_up
from evopress.steps.workspace import Workspace
from evopress.testing import (
    gguf_config,
    merging_tokenizer,
    pico_model,
    pico_tokenizer,
    random_model,
    write_pico_checkpoint,
)
from evopress.text.tokens import Tokens

SMALL: dict[str, Any] = {
    "sequence_length": 16,
    "calibration_tokens": 128,
    "search_tokens": 256,
    "heldout_tokens": 128,
    "generations": 3,
    "offspring": 6,
    "survivors": (2, 1),
    "tokens_per_stage": (32, 64),
    "start_tokens": 32,
    "sensitivity_tokens": (32, 32),
    "start_candidates": 3,
    "dtype": "float32",
    "group_size": 16,
    "levels": (2, 3, 4),
    "use": ("bits", "depth"),
    "polish": "none",
}

FIRST = ("model.layers.0", "model.layers.1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint") / "model"
    write_pico_checkpoint(folder, "llama", blocks=4)
    return folder


@pytest.fixture(scope="module")
def run(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """1.4 bits, where the lowest level has 2: something has to go."""
    return evopress.compress(
        str(model), data=str(text), bits="1.4", out=tmp_path_factory.mktemp("run") / "run", **SMALL
    )


def parts(profile: Profile) -> dict[str, set[bool]]:
    """Attention or MLP of a block -> whether its weights are dropped."""
    found: dict[str, set[bool]] = {}
    for name, level in profile.items():
        found.setdefault(name.rpartition(".")[0], set()).add(level == DROP)
    return found


def test_the_budget_is_met_by_whole_parts(run: Run):
    space = Workspace(read_run(run.directory.path), Observer()).space
    assert space.cost(run.profile) <= space.budget
    assert all(len(gone) == 1 for gone in parts(run.profile).values())
    dropped = [name for name, gone in parts(run.profile).items() if gone == {True}]
    row = run.evaluation["profiles"]["searched"]
    assert row["dropped_attn"] + row["dropped_mlp"] == len(dropped) > 0
    assert row["bits"] <= 1.4
    assert "uniform" not in run.evaluation["profiles"]  # it would have 2 bits


def test_the_export_is_the_searched_model(run: Run):
    """`export` has compared them bit by bit; here it is seen that the file is no dense model."""
    stored = AutoModelForCausalLM.from_pretrained(run.directory.export)
    gone = [name for name, drop in parts(run.profile).items() if drop == {True}]
    for name in gone:
        writer = "o_proj" if name.endswith("attn") else "down_proj"
        assert not stored.get_submodule(f"{name}.{writer}").weight.any()


def test_the_start_is_the_best_of_both_orders(run: Run):
    """Candidates drop different numbers of parts, and their real scores choose."""
    workspace = Workspace(read_run(run.directory.path), Observer())
    batch = make_strategy(workspace, warm_up(workspace, 0), 0).ask()
    assert batch is not None
    assert batch.generation == 0
    assert len({sum(level == DROP for level in profile.levels) for profile in batch.profiles}) > 2


def test_a_run_repeats_and_resumes(run: Run, tmp_path: Path):
    """A journal that was cut in mid-search is gone on with to the same profile."""
    copy = tmp_path / "run"
    shutil.copytree(run.directory.path, copy)
    for name in ("profile.json", "evaluation.json", "report.html"):
        (copy / name).unlink()
    shutil.rmtree(copy / "export")
    journal = (copy / "journal.jsonl").read_text().splitlines(keepends=True)
    (copy / "journal.jsonl").write_text("".join(journal[: len(journal) // 2]))
    again = evopress.pipeline.run_all(read_run(copy).config, copy, Observer(), checkpoint=False)
    assert again.profile == run.profile
    assert (copy / "journal.jsonl").read_text() == "".join(journal)


def test_other_commands_take_joint_runs(run: Run):
    workspace = Workspace(read_run(run.directory.path), Observer())
    found = compare(workspace)
    assert {"dense", "searched", "best-of"} <= found["profiles"].keys()
    assert from_toml(to_toml(run.directory.config), "x") == run.directory.config
    card = (run.directory.export / "README.md").read_text(encoding="utf-8")
    assert "quantization" in card
    assert "depth-pruning" in card
    assert "evopress compress" in card
    assert "--use bits,depth" in card
    assert "which parts should go" in run.directory.report.read_text(encoding="utf-8")


def test_reports_know_what_is_dropped_together(run: Run):
    data = read_data(run.directory.path)
    assert data.search_space == Workspace(read_run(run.directory.path), Observer()).space
    assert data.uniform == {}
    searched = bytes_of(data)[-1]
    assert searched.name == "searched"
    assert searched.total <= run.evaluation["profiles"]["searched"]["bytes"]
    found = cells(data)
    gone, *kept = by_level(found)
    assert (gone.name, gone.bytes, gone.lower) == (DROP, 0, gone.units)
    assert gone.units == sum(level == DROP for level in run.profile.levels)
    assert [own.name for own in kept] == sorted({level for level in run.profile.levels if level != DROP})
    assert sum(own.share for own in (gone, *kept)) == pytest.approx(1)
    roles = by_role(found)
    assert sum(own.bytes for own in roles) == sum(own.bytes for own in kept)
    assert sum(own.lower for own in roles) == gone.units
    page = render([data])
    assert f'<th scope="row">{DROP}</th><td>{gone.units}</td><td>{100 * gone.share:.1f} %</td>' in page


def test_what_stays_is_polished_around_what_is_dropped(run: Run, tmp_path: Path):
    copy = read_run(Path(shutil.copytree(run.directory.path, tmp_path / "run")))
    sizes = {"polish_tokens": 1024, "polish_watched": 64, "polish_batch": 64, "polish_model_epochs": 3}
    config = copy.config.model_copy(update={"polish": copy.config.polish.model_copy(update=sizes)})
    (copy.path / "config.toml").write_text(to_toml(config))
    workspace = Workspace(read_run(copy.path), Observer())
    found = dict(run.profile.items())
    whole = [block for block in range(4) if {found[n] for n in found if f".{block}." in n} != {DROP}]
    gone = {name.split(".")[2] for name, level in found.items() if level == DROP}
    assert any(str(block) in gone for block in range(max(whole)))  # what lies behind a drop learns, too
    evopress.pipeline.polish(workspace, "both")
    record = read_record(workspace.run.polished)
    assert record is not None
    assert record.result == "model"
    assert (len(record.blocks), "sweep" in record.watched) == (4, False)
    text = Tokens.of(workspace.text_to_learn(1024 + 64).sequences[-4:], "watched")
    with workspace.evaluator(text, (KL(),), 1) as evaluator:
        assert record.watched["unpolished"] == pytest.approx(evaluator.evaluate_all([run.profile]).scores(0)[0], 1e-4)
    assert record.watched["blocks"] < record.watched["unpolished"]
    workspace = Workspace(read_run(copy.path), Observer())
    rows = evopress.pipeline.evaluate(workspace)["profiles"]
    assert rows["polished"]["kl"] < rows["searched"]["kl"]
    assert rows["polished"]["bytes"] == rows["searched"]["bytes"]
    stored = load_file(evopress.pipeline.export(workspace, out=tmp_path / "export") / "model.safetensors")
    levels = workspace.polished(run.profile)
    assert levels is not None
    for name, level in found.items():
        if level != DROP:
            weight = stored[f"{name}.weight"]
            assert torch.equal(weight, levels.load(name, level).dequantize(weight.dtype))


def test_random_profiles_of_analyses_are_whole(run: Run):
    workspace = Workspace(read_run(run.directory.path), Observer())
    found = analyze(workspace, ("monotonicity", "landscape"), Sizes(4, 64), figures=False)
    assert found.keys() == {"monotonicity", "landscape"}
    watch = frame(read_data(run.directory.path))
    assert watch is not None
    assert summarize(run.directory)


def test_a_sweep_goes_from_one_budget_to_the_next(model: Path, text: Path, tmp_path: Path):
    settings = SMALL | {"generations": 1, "sensitivity_tokens": (32,)}
    runs = evopress.sweep(str(model), data=str(text), bits=[1.3, 2.5], out=tmp_path / "sweep", **settings)
    assert [run.evaluation["profiles"]["searched"]["bits"] <= most for run, most in zip(runs, (2.5, 1.3), strict=True)]
    assert DROP in runs[1].profile.levels


def test_one_family_is_its_own_command(model: Path):
    options = {name: value for name, value in SMALL.items() if name != "use"}
    one = resolve(str(model), bits=3, use=("bits",), **options)
    assert one == resolve(str(model), bits=3, application="bits", **options)
    assert one.depth is None
    assert resolve(str(model), bits=3, use=("depth", "bits"), **options).families == ("bits", "depth")


@pytest.mark.parametrize("target", ["transformers", "llamacpp"])
def test_files_take_what_the_budget_says(tmp_path: Path, text: Path, target: str):
    """Whole blocks are left out of files with packed levels, which load and answer as the searched model."""
    settings = SMALL | {"levels": None, "group_size": 32 if target == "transformers" else None, "target": target}
    if target == "transformers":
        pico_model("llama", blocks=4, width=64).save_pretrained(tmp_path / "model")
        pico_tokenizer().save_pretrained(tmp_path / "model")
    else:
        random_model(gguf_config("llama", blocks=4)).save_pretrained(tmp_path / "model")
        merging_tokenizer().save_pretrained(tmp_path / "model")
        settings |= {"levels": ("Q4_0", "Q8_0")}
    files = _files(tmp_path, text, settings)
    low = sum(min(own.values()) for own in files.levels.values()) + sum(files.parts.values())
    size = files.constant + int(0.8 * low)  # less than everything at its lowest level
    run = evopress.compress(str(tmp_path / "model"), data=str(text), size=size, out=tmp_path / "run", **settings)
    assert DROP in run.profile.levels
    written = weight_bytes(run.directory.export)
    cost = json.loads(run.directory.profile.read_text())["budget"]["cost"]
    assert written <= size
    assert size - written < 0.2 * size
    assert written == run.evaluation["profiles"]["searched"]["bytes"]
    assert cost <= size
    gone = {name.split(".")[2] for name, level in run.profile.items() if level == DROP}
    stored = AutoModelForCausalLM.from_pretrained(
        run.directory.export, **({"gguf_file": "model.gguf"} if target == "llamacpp" else {})
    )
    assert len(stored.model.layers) == 4 - len(gone)
    assert torch.isfinite(stored(torch.arange(5)[None]).logits).all()


def _files(folder: Path, text: Path, settings: dict[str, Any]) -> Any:
    config = resolve(str(folder / "model"), data=str(text), size=10**9, **settings)
    return Workspace(start_run(folder / "probe", config), Observer()).files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use": ("bits", "colour")}, r"--use names the unknown family 'colour'; known: bits, sparsity, depth"),
        ({"use": ("bits", "sparsity")}, "bits and sparsity cannot be searched together; use bits,depth"),
        ({"use": ("bits", "depth"), "preset": "paper"}, "preset paper is the paper's, for one family alone"),
        ({"exchange": "role"}, "--exchange role cannot be met: drops and levels trade any with any"),
        ({"polish": "blocks", "rounds": 2}, "--rounds 2 cannot be done where parts are dropped"),
        ({"bits": 9}, "9 bits lie outside the levels"),
        ({"target": "vllm", "levels": None, "group_size": 32, "granularity": "sublayer"}, "granularity block or pair"),
        ({"bits": None, "size": "1MB"}, "a size is that of a runtime's files"),
        ({"bits": None, "fraction": 0.5}, "a budget in fraction is one of depth, not of bits"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str):
    with pytest.raises((ConfigError, BudgetError), match=message):
        resolve("model", data="text.txt", **({"bits": 3} | SMALL | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "0.1"}, r"--bits 0.1, what is dropped counted as 0, cannot be met; the levels allow 0\."),
        ({"bpw": "7"}, "--bpw 7, what is dropped counted as 0, cannot be met; the levels allow"),
        (
            {"bits": 3, "protected": ("model.layers.0", "model.layers.1", "model.layers.2", "model.layers.3.attn")},
            "fewer",
        ),
        (
            {"bits": "1.2", "protected": ("model.layers.0", "model.layers.1", "model.layers.2.mlp")},
            "the levels allow 1",
        ),
        ({"size": "1kB", "target": "transformers", "group_size": 32, "levels": None}, "no profile takes 1000 bytes"),
    ],
)
def test_bad_input_that_the_model_tells(model: Path, text: Path, tmp_path: Path, options: dict[str, Any], message: str):
    if "target" in options:
        pico_model("llama", blocks=4, width=64).save_pretrained(tmp_path / "model")
        shutil.copyfile(model / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
        shutil.copyfile(model / "tokenizer_config.json", tmp_path / "model" / "tokenizer_config.json")
        model = tmp_path / "model"
    config = resolve(str(model), data=str(text), **(SMALL | options))
    workspace = Workspace(start_run(tmp_path / "run", config), Observer())
    with pytest.raises((BudgetError, UnsupportedModel), match=message):
        _ = workspace.family
