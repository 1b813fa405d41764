"""Depth and sparsity from end to end: the same run directory, search and files as for bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import evopress
from evopress import pipeline
from evopress.analysis import profile_that_drops
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.fitness.divergence import Perplexity
from evopress.models import describe, dropped, find_sublayers
from evopress.run.directory import read_run, start_run
from evopress.run.observer import Observer
from evopress.search.baselines.knapsack import Errors
from evopress.search.starts.sensitivity import GAMMAS, sensitivity_starts
from evopress.settings.resolve import resolve
from evopress.steps.analyze import Sizes, analyze
from evopress.steps.compare import compare
from evopress.steps.workspace import Workspace
from evopress.testing import pico_tokenizer, random_model, write_pico_checkpoint
from evopress.testing.tiny import tiny_config

SMALL: dict[str, Any] = {
    "sequence_length": 16,
    "calibration_tokens": 256,
    "search_tokens": 512,
    "heldout_tokens": 256,
    "polish": "none",
    "generations": 3,
    "offspring": 4,
    "survivors": (2, 1),
    "tokens_per_stage": (32, 64),
    "start_tokens": 32,
    "sensitivity_tokens": (64, 128),
    "start_candidates": 3,
    "dtype": "float32",
}


@pytest.fixture
def where(tmp_path: Path, text: Path) -> dict[str, Any]:
    write_pico_checkpoint(tmp_path / "model", "llama", blocks=4)
    return {"model": str(tmp_path / "model"), "data": str(text), "out": tmp_path / "run", **SMALL}


def logits(path: Path) -> torch.Tensor:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        answer: torch.Tensor = AutoModelForCausalLM.from_pretrained(path).eval()(ids).logits
    return answer


def test_drop_removes_exactly_k_of_each_kind(where: dict[str, Any]) -> None:
    run = evopress.drop(fraction=0.3, **where)  # 1.2 of 4: one attention and one MLP
    searched = run.evaluation["profiles"]["searched"]
    assert (searched["dropped_attn"], searched["dropped_mlp"]) == (1, 1)
    text = (run.directory.path / "profile.txt").read_text().split("\n")[:-1]
    assert len(text) == 4
    assert sum("attn" in line for line in text) == sum("mlp" in line for line in text) == 1


def test_a_fraction_is_rounded_not_truncated(where: dict[str, Any]) -> None:
    run = evopress.drop(fraction=0.4, **where | {"generations": 0})  # 1.6 of 4
    searched = run.evaluation["profiles"]["searched"]
    assert (searched["dropped_attn"], searched["dropped_mlp"]) == (2, 2)


def test_an_exported_drop_is_the_dropped_model(where: dict[str, Any]) -> None:
    run = evopress.drop(fraction=0.5, **where)
    model = AutoModelForCausalLM.from_pretrained(where["model"]).eval()
    levels = dict(run.profile.items())
    gone = [sub for sub in find_sublayers(model, describe(model)) if levels[sub.name] == "drop"]
    with dropped(model, gone), torch.no_grad():
        expected = model(torch.arange(5, 15)[None]).logits
    assert len(gone) == 4
    answer = logits(run.directory.export)

    assert torch.equal(answer, expected)


@pytest.mark.parametrize(("granularity", "units"), [("block", 4), ("pair", 2)])
def test_blocks_and_pairs(where: dict[str, Any], granularity: str, units: int) -> None:
    run = evopress.drop(fraction=0.5, granularity=granularity, **where)
    assert sorted(run.profile.levels) == ["drop"] * (units // 2) + ["keep"] * (units // 2)


@pytest.mark.parametrize("counts", ["parameters", "bytes"])
def test_a_budget_in_parameters_or_bytes_is_never_exceeded(where: dict[str, Any], counts: str) -> None:
    run = evopress.drop(fraction=0.4, counts=counts, exchange="any", mutation="free", **where)
    budget = json.loads(run.directory.profile.read_text())["budget"]
    assert 0 < budget["cost"] <= budget["limit"]


def test_blocks_without_which_there_is_no_model_stay(where: dict[str, Any], tmp_path: Path) -> None:
    """The last attention of a hybrid, whose class refuses recurrences alone."""
    random_model(tiny_config("olmo_hybrid")).save_pretrained(tmp_path / "hybrid")
    pico_tokenizer().save_pretrained(tmp_path / "hybrid")
    where["model"], observer = str(tmp_path / "hybrid"), Notes()
    run = evopress.drop(**where, fraction=0.25, granularity="block", observer=observer)
    assert run.profile["model.layers.3.attn+mlp"] == "keep"
    assert any(note.startswith("blocks that stay: 3, because a configuration of olmo_hybrid") for note in observer.said)
    assert AutoModelForCausalLM.from_pretrained(where["out"] / "export").config.num_hidden_layers == 3


class Notes(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_other_things_are_not_counted(where: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the budget counts 'bits'; use count, parameters, bytes"):
        evopress.drop(fraction=0.4, counts="bits", **where)


def test_protected_blocks_stay(where: dict[str, Any]) -> None:
    run = evopress.drop(fraction=0.5, protected=("model.layers.0", "model.layers.3.mlp"), **where)
    levels = dict(run.profile.items())
    assert {levels[f"model.layers.{unit}"] for unit in ("0.attn", "0.mlp", "3.mlp")} == {"keep"}
    assert list(levels.values()).count("drop") == 4


@pytest.mark.parametrize("start", ["sensitivity", "uniform"])
def test_masks_exist_where_no_whole_blocks_meet_the_budget(where: dict[str, Any], start: str) -> None:
    protected = tuple(f"model.layers.{unit}" for unit in ("0.attn", "1.attn", "2.mlp", "3.mlp"))
    run = evopress.drop(fraction=0.5, protected=protected, start=start, **where)
    assert set(run.evaluation["profiles"]) == {"dense", "searched"}
    assert list(dict(run.profile.items()).values()).count("drop") == 4


@pytest.mark.parametrize(
    ("budget", "level"),
    [
        ({"bits": 3}, "3"),
        ({"bits": 2.5}, "3"),
        ({"bits": 2.4}, "2"),
        ({"bpw": 3.4}, "2"),  # with scales and zeros of groups of 16 a level of 2 bits has 3.125, one of 3 bits 4.1875
        ({"bpw": 4}, "3"),
        ({"bits": 3, "propagate": "dense"}, "dense"),
    ],
)
def test_later_blocks_see_the_level_nearest_the_budget(
    where: dict[str, Any], budget: dict[str, Any], level: str
) -> None:
    out = where.pop("out")
    config = resolve(levels=(2, 3, 4), group_size=16, **budget, **where)
    notes: list[str] = []

    class Notes(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    workspace = Workspace(start_run(out, config), Notes())
    assert workspace.family.method is not None
    assert workspace.family.method.propagate == level
    pipeline.build(workspace)
    assert any(
        note.startswith("levels: gptq, scales searched")
        and f"see {'' if level == 'dense' else 'level '}{level}" in note
        for note in notes
    )


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude"])
def test_sparsify_has_the_exact_number_of_zeros(where: dict[str, Any], method: str) -> None:
    run = evopress.sparsify(sparsity=0.5, method=method, **where)
    rows = run.evaluation["profiles"]
    assert rows["uniform"]["sparsity"] == rows["searched"]["sparsity"] == 0.5
    model = AutoModelForCausalLM.from_pretrained(run.directory.export)
    weights = [model.get_parameter(linear.view.parameter) for linear in describe(model.eval()).linears]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == sum(weight.numel() for weight in weights) // 2


def test_sparse_starts_distrust_sensitivities_more(where: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty small steps a weight: the knapsack of a small gamma goes to their ends (docs/log.md)."""
    seen = []

    def spy(space: SearchSpace, slope: Errors, curvature: Errors, gammas: tuple[float, ...]) -> tuple[Profile, ...]:
        seen.append(gammas)
        return sensitivity_starts(space, slope, curvature, gammas)

    monkeypatch.setattr("evopress.steps.strategies.sensitivity_starts", spy)
    evopress.sparsify(sparsity=0.5, **where | {"generations": 0})
    assert {min(gammas) for gammas in seen} == {max(GAMMAS)}


def test_patterns(where: dict[str, Any]) -> None:
    run = evopress.sparsify(sparsity=0.5, pattern="2:4", **where)
    assert set(run.profile.levels) <= {"1:4", "2:4", "3:4", "4:4"}
    assert run.evaluation["profiles"]["searched"]["sparsity"] == 0.5
    model = AutoModelForCausalLM.from_pretrained(run.directory.export).eval()
    for linear in describe(model).linears:
        kept = (model.get_parameter(linear.view.parameter) != 0).view(-1, 4).sum(-1)
        assert kept.max() <= int(run.profile[linear.name][0])


def test_a_run_goes_on_and_evaluates_drop_configs(where: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.drop(fraction=0.25, **where)
    assert evopress.drop(fraction=0.25, **where).profile == run.profile
    (tmp_path / "config.txt").write_text("none\nattn+mlp\nattn\nnone\n")
    workspace = Workspace(read_run(run.directory.path), Observer())
    result = pipeline.evaluate(workspace, profile=tmp_path / "config.txt")
    assert (result["profiles"]["given"]["dropped_attn"], result["profiles"]["given"]["dropped_mlp"]) == (2, 1)


@pytest.mark.parametrize(
    ("command", "budget", "expected"),
    [
        ("quantize", {"bits": 3, "group_size": 16, "levels": (2, 3, 4)}, {"uniform", "dp", "best-of"}),
        ("sparsify", {"sparsity": 0.5}, {"uniform", "dp", "best-of", "owl"}),
        (
            "drop",
            {"fraction": 0.5},
            {"shortgpt", "weight-subcloning", "sliding-window", "shortened-llama", "best-of", "greedy", "brute-force"},
        ),
    ],
)
def test_compare_scores_every_baseline(
    where: dict[str, Any], command: str, budget: dict[str, Any], expected: set[str]
) -> None:
    run = getattr(evopress, command)(**budget, **where)
    workspace = Workspace(read_run(run.directory.path), Observer())
    result = compare(workspace, seeds=2, brute=command == "drop")
    rows = result["profiles"]
    assert not result["skipped"]
    assert set(rows) == expected | {"dense", "searched"}
    assert rows["searched"]["seeds"] == rows["best-of"]["seeds"] == 2
    assert rows["dense"]["kl"] < 1e-9
    assert all(row["search_tokens"] > 0 for name, row in rows.items() if name != "dense")
    if command == "drop":
        assert {(row["dropped_attn"], row["dropped_mlp"]) for name, row in rows.items() if name != "dense"} == {(2, 2)}
    again = compare(Workspace(read_run(run.directory.path), Observer()), seeds=2, brute=command == "drop")
    assert again["profiles"] == rows


@pytest.mark.parametrize(
    ("command", "budget"),
    [
        ("quantize", {"bits": 3, "group_size": 16, "levels": (2, 3, 4)}),
        ("sparsify", {"sparsity": 0.5}),
        ("drop", {"fraction": 0.5}),
    ],
)
def test_analyses_of_every_kind_of_run(where: dict[str, Any], command: str, budget: dict[str, Any]) -> None:
    run = getattr(evopress, command)(**budget, **where)
    workspace = Workspace(read_run(run.directory.path), Observer())
    found = analyze(workspace, sizes=Sizes(profiles=4, tokens=64))
    for name, one in found.items():
        assert all(len(row) == len(table.headers) for table in one.tables for row in table.rows)
        assert json.loads((run.directory.path / "analysis" / f"{name}.json").read_text())
        assert (run.directory.path / "analysis" / f"{name}.svg").read_text().startswith("<?xml")
    assert found["monotonicity"].tables[0].rows
    if command == "drop":
        pair = found["monotonicity"].found.heldout.pairs[0]
        profiles = [profile_that_drops(workspace.space, names) for names in (pair.fewer, pair.more)]
        with workspace.evaluator(workspace.splits.heldout, (Perplexity(),), 2) as evaluator:
            assert evaluator(profiles, 64) == [pair.fewer_score, pair.more_score]
        assert pair not in found["monotonicity"].found.search.pairs
    with pytest.raises(ConfigError, match="unknown analysis 'noises'; use monotonicity"):
        analyze(workspace, ("noises",))
