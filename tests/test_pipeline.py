"""The Python API: `evopress.quantize`, own fitness functions, and runs that share one database."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import evopress
from evopress.errors import ConfigError, DatabaseError, DataError, RunError, RunMismatch, ScheduleError
from evopress.fitness.divergence import KL
from evopress.run.observer import Observer
from evopress.run.records import read_json
from evopress.search.types import BatchResult
from evopress.steps.workspace import Workspace
from evopress.testing import write_pico_checkpoint
from evopress.text.tokens import Tokens


def test_quantize_returns_a_run(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small)
    assert len(run.profile) == 21
    rows = run.evaluation["profiles"]
    assert rows["searched"]["bits"] <= 3
    assert all(math.isfinite(row["kl"]) for row in rows.values())


def test_a_function_is_a_fitness(small: dict[str, Any], tmp_path: Path) -> None:
    seen: list[torch.Size] = []

    def largest_gap(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        seen.append(student.shape)
        return (teacher - student).abs().amax(-1)

    run = evopress.quantize(out=tmp_path / "run", fitness=largest_gap, **small)
    assert seen
    assert seen[0][1] == 96
    assert "largest_gap" in (run.directory.path / "config.toml").read_text()


def test_seeds_differ_and_repeat(small: dict[str, Any], tmp_path: Path) -> None:
    def journal(name: str, seed: int) -> bytes:
        run = evopress.quantize(out=tmp_path / name, seed=seed, **small)
        return run.directory.journal.read_bytes()

    first = journal("a", 1)
    assert journal("b", 1) == first
    assert journal("c", 2) != first


def test_a_run_from_before_bos_goes_on_without(small: dict[str, Any], tmp_path: Path) -> None:
    small |= {"bos": "no"}
    run = evopress.quantize(out=tmp_path / "run", **small)
    whole, config = run.directory.journal.read_bytes(), tmp_path / "run" / "config.toml"
    assert b"bos" not in whole  # as in journals of earlier versions
    config.write_text(config.read_text().replace('bos = "no"\n', ""))
    run.directory.journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    run.directory.profile.unlink()
    assert evopress.quantize(out=tmp_path / "run", **small).directory.journal.read_bytes() == whole
    with pytest.raises(RunMismatch, match=r"data.bos: no -> auto"):
        evopress.quantize(out=tmp_path / "run", **small | {"bos": "auto"})


def test_runs_share_a_database(small: dict[str, Any], tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    one = evopress.quantize(out=tmp_path / "one", database=shared, **small)
    before = {file.name: file.stat().st_mtime_ns for file in Path(shared).glob("*.safetensors")}
    other = evopress.quantize(out=tmp_path / "other", database=shared, **{**small, "bits": 2.5})
    assert before == {file.name: file.stat().st_mtime_ns for file in Path(shared).glob("*.safetensors")}
    assert not (tmp_path / "one" / "database").exists()
    assert one.evaluation["profiles"]["searched"]["bits"] > other.evaluation["profiles"]["searched"]["bits"]
    with pytest.raises(DatabaseError, match="another method"):
        evopress.quantize(out=tmp_path / "third", database=shared, **{**small, "group_size": 8})


def test_best_of_random_profiles_is_a_strategy(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", strategy="best-of", start_candidates=5, **small)
    assert len(run.directory.journal.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("architecture", ["llama", "gpt2"], ids=["own head", "tied head"])
def test_embedding_and_head_when_asked_for(small: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    write_pico_checkpoint(tmp_path / "model", architecture)
    options = small | {
        "model": str(tmp_path / "model"),
        "start": "sensitivity",
        "sensitivity_tokens": (32, 64),
        "dtype": "float32",
    }
    plain = evopress.quantize(out=tmp_path / "plain", **options)
    run = evopress.quantize(out=tmp_path / "run", embeddings=True, **options)
    ends = set(run.profile.names) - set(plain.profile.names)
    assert len(ends) == (2 if architecture == "llama" else 1)
    rows, before = run.evaluation["profiles"], plain.evaluation["profiles"]
    assert rows["searched"]["bits"] <= 3
    assert rows["uniform"]["bytes"] < before["uniform"]["bytes"]
    assert rows["uniform"]["kl"] > before["uniform"]["kl"]
    with pytest.raises(RunMismatch, match=r"embeddings: False -> True"):
        evopress.quantize(out=tmp_path / "plain", embeddings=True, **options)

    exported = AutoModelForCausalLM.from_pretrained(run.directory.export)
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for module in (exported.get_input_embeddings(), exported.get_output_embeddings()):
        assert len(module.weight[0, :16].unique()) <= 2**4
    ids = torch.arange(1, 17)[None]
    with torch.no_grad():
        p, q = (model.eval()(ids).logits.log_softmax(-1) for model in (dense, exported))
        stock = (p.exp() * (p - q)).sum(-1).mean()
    workspace = Workspace(run.directory, Observer())
    with workspace.evaluator(Tokens.of([ids[0]], "few"), (KL(),), 1) as evaluator:
        assert evaluator.evaluate_all([run.profile]).scores()[0] == pytest.approx(float(stock), rel=1e-4)


@pytest.mark.parametrize("start", ["sensitivity", "knapsack"])
def test_race_preselection_and_adaptive_moves_give_the_same_journal_after_a_resume(
    small: dict[str, Any], tmp_path: Path, start: str
) -> None:
    options = small | {"race": True, "preselect": 4, "mutation": "adaptive", "start": start}
    options["sensitivity_tokens"] = (32, 64)

    def go(name: str) -> bytes:
        run = evopress.quantize(out=tmp_path / name, **options)
        assert run.evaluation["profiles"]["searched"]["bits"] <= 3
        return run.directory.journal.read_bytes()

    whole = go("run")
    assert whole != evopress.quantize(out=tmp_path / "plain", **small).directory.journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in range(1, len(lines), 6):
        (tmp_path / "run" / "journal.jsonl").write_bytes(b"".join(lines[:kept]))
        for name in ("profile.json", "evaluation.json"):
            (tmp_path / "run" / name).unlink()
        assert go("run") == whole


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"token_limit": 2000}, "the limit of 2000 tokens was reached"),
        ({"time": "3s"}, "the limit of 3 s was reached"),
        ({"patience": 1, "generations": 40}, "1 generations in a row kept their parent"),
        ({"generations": 2}, "all generations are done"),
    ],
)
def test_what_ends_a_search_is_recorded(small: dict[str, Any], tmp_path: Path, limit: Any, said: str) -> None:
    options = {key: value for key, value in small.items() if key != "generations"} | {"start": "knapsack"} | limit
    run = evopress.quantize(out=tmp_path / "run", **options)
    fitness = read_json(run.directory.profile, "search")["fitness"]
    assert said in fitness["stopped"]
    generations = {json.loads(line)["generation"] for line in run.directory.journal.read_text().splitlines()[1:]}
    assert max(generations) > 1 or "patience" in limit
    if "token_limit" in limit:
        assert 2000 - 300 < fitness["tokens"] <= 2000


def test_another_configuration_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    evopress.quantize(out=tmp_path / "run", **small)
    with pytest.raises(RunMismatch, match=r"compression.group_size: 16 -> 8"):
        evopress.quantize(out=tmp_path / "run", **{**small, "group_size": 8})


def test_unknown_options_list_the_known(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown option .group.*group_size"):
        evopress.quantize(out=tmp_path / "run", group=8, **small)


def test_uniform_and_knapsack_never_cost_more_than_the_budget(small: dict[str, Any], tmp_path: Path) -> None:
    rows = evopress.quantize(out=tmp_path / "run", **{**small, "bits": 2.7}).evaluation["profiles"]
    assert rows["uniform"]["bits"] == 2
    assert 2.6 < rows["dp"]["bits"] <= 2.7


def test_a_search_that_starts_at_its_end_returns_the_start(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", **{**small, "generations": 0})
    assert len(run.profile) == 21


class Phases(Observer):
    """Remembers which phases a run went through, and the batches of its search."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.batches: list[BatchResult] = []
        self.tokens: list[int] = []

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        if phase not in self.phases:
            self.phases.append(phase)

    def batch(self, result: BatchResult, space: object, tokens: int) -> None:
        self.batches.append(result)
        self.tokens.append(tokens)


def test_measured_starts_compete_and_their_tokens_count(small: dict[str, Any], tmp_path: Path) -> None:
    seen = Phases()
    run = evopress.quantize(out=tmp_path / "run", observer=seen, **small | {"sensitivity_tokens": (32, 64)})
    assert seen.phases == ["build", "measure", "evaluate", "export"]
    starts = seen.batches[0].batch
    assert starts.generation == 0
    assert starts.profiles[0].levels == ("3",) * 21
    assert 3 <= len(starts.profiles) <= 7
    rounds = (32 + 64) * (5 + 2)
    between = seen.tokens[0] - rounds - len(starts.profiles) * starts.tokens  # the first round's proposals were scored
    assert between % starts.tokens == 0
    assert 3 <= between // starts.tokens <= 7
    assert [read_json(run.directory.sensitivity(number), "search")["tokens"] for number in (0, 1)] == [32, 64]
    assert read_json(run.directory.profile, "search")["fitness"]["tokens"] == seen.tokens[-1]


@pytest.mark.parametrize(
    "options", [{"start": "knapsack"}, {"strategy": "best-of"}, {"preset": "paper", "start": "uniform"}]
)
def test_other_starts_measure_nothing(small: dict[str, Any], tmp_path: Path, options: dict[str, Any]) -> None:
    run = evopress.quantize(out=tmp_path / "run", observer=(seen := Phases()), **{**small, **options})
    assert "measure" not in seen.phases
    assert not run.directory.sensitivity(0).exists()
    assert seen.tokens[0] == len(seen.batches[0].batch.profiles) * seen.batches[0].batch.tokens


def test_a_resumed_search_reads_what_was_measured(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small).directory
    before = {path: path.read_bytes() for path in (run.sensitivity(0), run.sensitivity(1), run.journal, run.profile)}
    run.profile.unlink()
    evopress.quantize(out=run.path, observer=(seen := Phases()), **small)
    assert "measure" not in seen.phases
    run.profile.unlink()
    run.sensitivity(1).unlink()
    evopress.quantize(out=run.path, observer=(seen := Phases()), **small)
    assert "measure" in seen.phases
    assert before == {path: path.read_bytes() for path in before}


def test_sensitivities_of_other_things_are_measured_again(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small).directory
    before, text = run.profile.read_bytes(), run.sensitivity(1).read_text()
    data = json.loads(text)
    data["fingerprint"]["model"] = "another"
    for damaged in (json.dumps(data), text):
        run.profile.unlink()
        run.sensitivity(1).write_text(damaged)
        evopress.quantize(out=run.path, **small)
        assert run.profile.read_bytes() == before
        assert run.sensitivity(1).read_text() == text
    run.profile.unlink()
    del data["slope"]
    data["fingerprint"] = json.loads(text)["fingerprint"]
    run.sensitivity(1).write_text(json.dumps(data))
    with pytest.raises(RunError, match="holds no sensitivities; delete it and run the search again"):
        evopress.quantize(out=run.path, **small)


def test_more_sensitivity_tokens_than_search_tokens(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="sensitivity-tokens 1024 exceed the 512 search tokens"):
        evopress.quantize(out=tmp_path / "run", **small | {"sensitivity_tokens": (64, 1024)})


def test_final_scores_are_those_of_the_winner_not_of_the_last_candidate(small: dict[str, Any], tmp_path: Path) -> None:
    from evopress.fitness.divergence import KL
    from evopress.steps.workspace import Workspace

    class Last(Observer):
        """Remembers the last profile that was scored."""

        def batch(self, result: BatchResult, space: object, tokens: int) -> None:
            self.profile = result.batch.profiles[-1]

    last = Last()
    run = evopress.quantize(out=tmp_path / "run", observer=last, **small)
    workspace = Workspace(run.directory, Observer())
    with workspace.evaluator(workspace.splits.heldout, (KL(),), 2) as evaluator:
        winner, other = evaluator.evaluate_all([run.profile, last.profile]).scores()
    assert run.evaluation["profiles"]["searched"]["kl"] == pytest.approx(winner, rel=1e-6)
    assert other != pytest.approx(winner, rel=1e-6)


@pytest.mark.parametrize("bits", ["7/3", 3.0, "3.00"])
def test_budgets_have_one_spelling(small: dict[str, Any], tmp_path: Path, bits: Any) -> None:
    run = evopress.quantize(out=tmp_path / "run", **{**small, "bits": bits, "generations": 1})
    assert run.directory.config.budget.target == ("7/3" if bits == "7/3" else "3")


def test_a_run_that_failed_before_any_work_can_be_started_again(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        evopress.quantize(out=tmp_path / "run", **{**small, "data": "text.txt"})
    assert len(evopress.quantize(out=tmp_path / "run", **small).profile) == 21


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_there_is_named(
    small: dict[str, Any], tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{device}' is not there"):
        evopress.quantize(out=tmp_path / "run", device=device, **small)
