"""The commands as a user runs them, on a pico model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Call = Callable[..., Any]
KEYS = {"perplexity", "kl", "bits", "bpw", "bytes"}


def test_quantize_prints_a_table_and_leaves_a_whole_run(quantize: Call, tmp_path: Path) -> None:
    result = quantize(tmp_path / "run")
    assert result.code == 0, result.err
    for word in ("dense", "uniform", "dp", "searched", "checkpoint", "mlp.down_proj"):
        assert word in result.out
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "config.toml", "database", "journal.jsonl", "profile.json", "profile.txt", "evaluation.json", "export",
    }  # fmt: skip


def test_json_is_one_object_on_standard_output(quantize: Call, tmp_path: Path) -> None:
    result = quantize(tmp_path / "run", "--json")
    data = json.loads(result.out)
    assert list(data["profiles"]) == ["dense", "uniform", "dp", "searched"]
    assert all(set(row) == KEYS for row in data["profiles"].values())
    assert {"data", "tokens", "seconds", "uncertainty"} <= set(data)
    assert data["tokens"] == 256
    assert data["profiles"]["searched"]["bits"] <= 3
    assert data["profiles"]["dense"]["kl"] == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == data


def test_embedding_and_head_have_rows_of_their_own(quantize: Call, tmp_path: Path) -> None:
    result = quantize(tmp_path / "run", "--embeddings")
    assert result.code == 0, result.err
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line.strip()}
    assert len(rows["embed_tokens"]) == len(rows["lm_head"]) == 1
    assert len(rows["mlp.down_proj"]) == 3


def test_evaluate_on_another_text_any_time_later(quantize: Call, call: Call, text: Path, tmp_path: Path) -> None:
    assert quantize(tmp_path / "run").code == 0
    before = (tmp_path / "run" / "evaluation.json").read_bytes()
    other = tmp_path / "other.txt"
    other.write_text("nobody knew why it rained hard today while the cat sat on a mat " * 20)
    result = call("evaluate", tmp_path / "run", "--data", other, "--tokens", "128", "--json")
    data = json.loads(result.out)
    assert data["tokens"] == 128
    assert "other.txt" in data["data"]["source"]
    assert set(data["profiles"]["dp"]) == KEYS
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == before


def test_scores_have_limits_and_the_searched_profile_is_tested_against_the_others(
    quantize: Call, call: Call, tmp_path: Path
) -> None:
    data = json.loads(quantize(tmp_path / "run", "--json").out)
    found, rows = data["uncertainty"], data["profiles"]
    assert found["sequences"] == 16
    for name, row in rows.items():
        for key in ("kl", "perplexity"):
            low, high = found["intervals"][name][key]
            assert low <= row[key] <= high
    assert list(found["against"]) == ["dense", "uniform", "dp"]
    versus = found["against"]["uniform"]
    assert versus["kl"]["difference"] == pytest.approx(rows["searched"]["kl"] - rows["uniform"]["kl"])
    assert versus["perplexity"]["ratio"] == pytest.approx(
        rows["searched"]["perplexity"] / rows["uniform"]["perplexity"]
    )
    shown = call("evaluate", tmp_path / "run").out
    low, high = found["intervals"]["searched"]["kl"]
    assert f"{low:.4f}–{high:.4f}" in shown
    assert f"against uniform: KL {versus['kl']['difference']:+.4f}" in shown
    assert "against dense" not in shown
    assert "16 sequences" in shown


def test_an_evaluation_without_limits_can_still_be_shown(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    file = tmp_path / "run" / "evaluation.json"
    data = json.loads(file.read_text())
    del data["uncertainty"]  # what earlier versions wrote
    file.write_text(json.dumps(data))
    assert "searched" in call("inspect", tmp_path / "run").out


@pytest.mark.parametrize(("length", "model", "begin"), [(16, "checkpoint", ()), (40, "bos_checkpoint", (1,))])
def test_perplexity_is_that_of_ten_lines_over_the_stock_model(
    quantize: Call, call: Call, request: pytest.FixtureRequest, tmp_path: Path, length: int, model: str, begin: Any
) -> None:
    checkpoint = request.getfixturevalue(model)
    log = " ".join(quantize(tmp_path / "run", "--dtype", "float32", model=checkpoint).err.split())  # lines are wrapped
    assert ("each sequence after <s>" if begin else "without BOS") in log
    for file in ("export/README.md", "report.html"):
        assert ("each window after BOS" in (tmp_path / "run" / file).read_text()) == bool(begin)
    other = tmp_path / "other.txt"
    other.write_text("nobody knew why it rained hard today while the cat sat on a mat.\n" * 10)
    flags = ("--data", other, "--sequence-length", str(length), "--json")
    found = json.loads(call("evaluate", tmp_path / "run", *flags).out)
    for name, place in {"dense": checkpoint, "searched": tmp_path / "run" / "export"}.items():
        expected, tokens = ten_lines(place, other.read_text(), length, begin)
        assert found["tokens"] == tokens
        assert found["profiles"][name]["perplexity"] == pytest.approx(expected, rel=1e-4)


def ten_lines(
    place: Path, text: str, length: int, begin: tuple[int, ...] = (), *, whole: bool = False
) -> tuple[float, int]:
    """Perplexity of a stock checkpoint in windows (`whole`: full ones only), and how many tokens they have."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    windows = [torch.cat([torch.tensor(begin, dtype=int), part]) for part in ids.split(length - len(begin))]
    windows = [window for window in windows if len(window) == length or not whole]
    losses, tokens = 0.0, 0
    for window in windows:
        with torch.no_grad():
            loss = model(window[None], labels=window[None]).loss
        losses, tokens = losses + float(loss) * (len(window) - 1), tokens + len(window) - 1
    return math.exp(losses / tokens), sum(map(len, windows))


@pytest.mark.parametrize(("name", "documents", "length"), [("wikitext2", 3, 12), ("c4", 1100, 100)])
def test_published_texts_are_scored_by_the_papers_protocol(
    quantize: Call,
    call: Call,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    documents: int,
    length: int,
) -> None:
    rows = [" = Cats = \n", "nobody knew why\n", "it rained"] if name == "wikitext2" else ["ab", "c"] * 600
    monkeypatch.setattr("evopress.text.hub._stream", lambda *arguments, **options: iter(rows))
    quantize(tmp_path / "run", "--dtype", "float32")
    flags = ("--data", name, "--sequence-length", str(length), "--json")
    found = json.loads(call("evaluate", tmp_path / "run", *flags).out)
    expected, tokens = ten_lines(checkpoint, "\n\n".join(rows[:documents]), length, whole=True)
    assert found["tokens"] == tokens
    assert found["profiles"]["dense"]["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_the_same_command_again_changes_nothing(quantize: Call, tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}

    first = quantize(tmp_path / "run", "--json")
    before = content()
    again = quantize(tmp_path / "run", "--json")
    assert again.code == 0
    assert json.loads(again.out) == json.loads(first.out)
    assert content() == before


def test_the_steps_one_by_one_give_the_same_run(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "whole")
    quantize(tmp_path / "steps")
    for name in ("profile.json", "evaluation.json", "journal.jsonl"):
        (tmp_path / "steps" / name).unlink()
    for step in ("build", "search", "evaluate", "export"):
        assert call(step, tmp_path / "steps").code == 0
    for name in ("profile.json", "journal.jsonl", "profile.txt", "export/model.safetensors"):
        assert (tmp_path / "steps" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_is_polished_later(quantize: Call, call: Call, tmp_path: Path) -> None:
    run, small = (
        tmp_path / "run",
        ("--polish-tokens", "1024", "--polish-watched", "64", "--polish-batch", "64", "--dtype", "float32"),
    )
    assert quantize(run, *small, "--polish-model-rate", "0.003").code == 0
    result = call("polish", run, "--polish", "model")
    assert result.code == 0, result.err
    assert "polish: model, about 1 min" in result.err
    assert "evaluated or exported before has the unpolished levels" in result.err
    found = json.loads(call("evaluate", run, "--json").out)["profiles"]
    assert list(found) == ["dense", "uniform", "dp", "searched", "polished"]
    assert found["polished"]["kl"] < found["searched"]["kl"]
    shown = call("inspect", run)
    assert "polish: model" in shown.out
    again = call("polish", run, "--polish", "both")
    assert again.code == 12
    assert "polish: model -> both" in again.err


def test_inspect_shows_how_far_a_run_is(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    shown = call("inspect", tmp_path / "run").out
    assert "21 of 21 units" in shown
    assert "weights: 100.0% of the blocks' are compressed" in shown
    (tmp_path / "run" / "profile.json").unlink()
    (tmp_path / "run" / "evaluation.json").unlink()
    data = json.loads(call("inspect", tmp_path / "run", "--json").out)
    assert data["database"]["units"] == 21
    assert data["search"]["generation"] == 3
    assert data["profile"] is None


@pytest.mark.parametrize("bits", ["2", "2.3", "3.5", "4"])
def test_any_budget_between_the_levels_works(quantize: Call, tmp_path: Path, bits: str) -> None:
    data = json.loads(quantize(tmp_path / "run", "--bits", bits, "--json").out)
    assert data["profiles"]["searched"]["bits"] <= float(bits)
    assert data["profiles"]["searched"]["bits"] > float(bits) - 0.05


def test_bpw_counts_scales_and_zeros(call: Call, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    flags = "--bpw 4.1 --sequence-length 16 --calibration-tokens 256 --search-tokens 512 --heldout-tokens 256 --json "
    flags += (
        "--polish none --levels 2,3,4 --group-size 16 --generations 2 --offspring 4 --survivors 1 --tokens-per-stage 32"
    )
    result = call("quantize", checkpoint, "-o", tmp_path / "run", "--data", text, *flags.split())
    row = json.loads(result.out)["profiles"]["searched"]
    assert row["bpw"] <= 4.1
    assert row["bpw"] > 4.0


def test_paper_preset_is_algorithm_1(quantize: Call, bos_checkpoint: Path, tmp_path: Path) -> None:
    assert quantize(tmp_path / "run", "--preset", "paper", model=bos_checkpoint).code == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["data"]["bos"] is None
    text = (tmp_path / "run" / "config.toml").read_text()
    assert 'exchange = "size"' in text
    assert 'mutation = "equal"' in text
    assert 'start = "uniform"' in text


@pytest.mark.parametrize("fitness", ["topk-kl", "perplexity"])
def test_other_fitness(quantize: Call, tmp_path: Path, fitness: str) -> None:
    assert quantize(tmp_path / "run", "--fitness", fitness).code == 0
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["fitness"]["name"] == fitness


def test_profiles_of_the_official_code_are_evaluated_and_exported(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    lines = (tmp_path / "run" / "profile.txt").read_text().splitlines()
    (tmp_path / "official.txt").write_text("".join(line.rpartition(":")[0] + ": 4\n" for line in lines))
    data = json.loads(call("evaluate", tmp_path / "run", "--profile", tmp_path / "official.txt", "--json").out)
    assert data["profiles"]["given"]["bits"] == 4
    assert data["profiles"]["given"]["kl"] < data["profiles"]["searched"]["kl"]
    target = tmp_path / "exported"
    assert call("export", tmp_path / "run", "-o", target, "--profile", tmp_path / "official.txt").code == 0
    assert (target / "model.safetensors").read_bytes() != (tmp_path / "run/export/model.safetensors").read_bytes()
    (tmp_path / "official.txt").write_text("model.layers.9.mlp.up_proj: 4\n")
    result = call("export", tmp_path / "run", "--profile", tmp_path / "official.txt")
    assert result.code == 19
    assert "model.layers.9.mlp.up_proj" in result.err.splitlines()[-1]


def test_export_loads_as_a_stock_checkpoint(quantize: Call, call: Call, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evopress.run.directory import read_run
    from evopress.run.observer import Observer
    from evopress.run.records import read_profile
    from evopress.steps.workspace import Workspace

    quantize(tmp_path / "run")
    target = tmp_path / "elsewhere" / "checkpoint"
    assert call("export", tmp_path / "run", "-o", target).code == 0
    stock = AutoModelForCausalLM.from_pretrained(target).eval()
    ids = AutoTokenizer.from_pretrained(target)("the cat sat on a mat", return_tensors="pt").input_ids
    workspace = Workspace(read_run(tmp_path / "run"), Observer())
    profile = read_profile(tmp_path / "run" / "profile.json")
    with workspace.evaluator(workspace.splits.heldout, (), 1) as evaluator, torch.no_grad():
        for block, choice in enumerate(evaluator.assembly.choices(profile)):
            evaluator.assembly.use(block, choice)
        assert torch.equal(stock(ids).logits, workspace.loaded.model(ids).logits)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("quantize --bits 3 --levels 2,3,4 --group-size 16", "uniform dp best-of"),
        ("sparsify --sparsity 0.5", "uniform dp best-of owl"),
        (
            "drop --fraction 0.34",
            "shortgpt weight-subcloning sliding-window shortened-llama best-of greedy brute-force",
        ),
    ],
    ids=["bits", "sparsity", "depth"],
)
def test_compare_prints_every_baseline_with_what_it_cost(
    call: Call, checkpoint: Path, text: Path, tmp_path: Path, sizes: list[str], words: str, expected: str
) -> None:
    command, *flags = words.split()
    flags += [*sizes, "--start", "uniform", "--start-candidates", "2"]
    assert call(command, checkpoint, "-o", tmp_path / "run", "--data", text, *flags).code == 0
    brute = ["--brute-force"] if command == "drop" else []
    result = call("compare", tmp_path / "run", *brute, "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["profiles"]
    assert set(rows) == {"dense", "searched", *expected.split()}
    for name, row in rows.items():
        assert {"kl", "perplexity", "bytes"} <= set(row)
        if name != "dense":
            assert row["search_tokens"] > 0
            assert row["search_seconds"] >= 0
    assert "searched" in (tmp_path / "run" / "comparison.svg").read_text()
    again = call("compare", tmp_path / "run", *brute)
    for word in ("tokens", "seconds", "perplexity", "KL", *expected.split()):
        assert word in again.out
