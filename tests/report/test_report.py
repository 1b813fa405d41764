"""report.html says what the JSON files say, of finished and unfinished runs, and nothing in it can become code."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import Page

import evopress
from evopress.cli import main
from evopress.core.polish_record import PolishRecord, write_record
from evopress.errors import JournalError, RunError, RunMismatch
from evopress.report import read_all, read_data, write_report
from evopress.report.allocation import bytes_of, cells
from evopress.report.commands import reproduce
from evopress.report.data import read_journal
from evopress.report.page import render
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.run.wording import verdict
from evopress.settings.config import to_toml
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace
from evopress.testing import gguf_config, merging_tokenizer, pico_model, random_model

HOSTILE = "<script>alert('x')</script>\"'&{{7*7}}"


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def page_of(*paths: Path) -> Page:
    page = Page(render(read_all(paths)))
    assert page.open == [], "unclosed tags"
    return page


@pytest.mark.parametrize("name", ["bits", "sparsity", "depth"])
def test_the_page_holds_the_values_of_the_files(runs: dict[str, Path], name: str) -> None:
    run = runs[name]
    page = Page((run / "report.html").read_text())  # made at the end of the run
    evaluation, profile, space = (load(run / file) for file in ("evaluation.json", "profile.json", "space.json"))
    rows = evaluation["profiles"]
    assert page.values == {f"{row}.{key}": value for row, values in rows.items() for key, value in values.items()}
    assert list(page.cells)
    assert set(page.cells) == set(page.units) == {unit["name"] for unit in space["units"]}
    for unit in space["units"]:
        level = next(own for own in unit["levels"] if own["name"] == profile["profile"][unit["name"]])
        hover = page.cells[unit["name"]]["title"]
        assert f"level {level['name']}" in hover
        assert page.units[unit["name"]][1] == level["name"]
        if level["error"] is not None:
            assert f"layer error {level['error']:.5f}" in hover
    assert "not finished" not in page.text
    assert ("Packed, it takes" in page.text) == (name != "depth")  # the checkpoint itself is dense
    assert str(run) in page.text


def test_bytes_add_up_to_the_size_of_the_model(runs: dict[str, Path]) -> None:
    for run in runs.values():
        found = {part.name: part.total for part in bytes_of(read_data(run))}
        rows = load(run / "evaluation.json")["profiles"]
        for name, total in found.items():
            assert abs(total - rows[name]["bytes"]) < 8


def test_bytes_of_the_dense_model_hold_no_zeros_of_the_searched_one(
    tmp_path: Path, small_other: dict[str, Any]
) -> None:
    evopress.drop(fraction=0.34, target="transformers", out=tmp_path / "run", **small_other)
    rows = load(tmp_path / "run" / "evaluation.json")["profiles"]
    found = {part.name: part.total for part in bytes_of(read_data(tmp_path / "run"))}
    kept = sum(level == "keep" for level in load(tmp_path / "run" / "profile.json")["profile"].values())
    assert kept == 4  # one attention and one MLP are dropped
    assert {name: abs(total - rows[name]["bytes"]) < 8 for name, total in found.items()} == dict.fromkeys(found, True)


def test_bytes_of_a_file_of_packed_weights_are_those_of_the_file(tmp_path: Path, small_other: dict[str, Any]) -> None:
    for part in (pico_model("llama", width=128, vocabulary=300), merging_tokenizer()):
        part.save_pretrained(tmp_path / "model")
    rest = small_other | {"model": str(tmp_path / "model")}
    packed = evopress.quantize(bits=5, target="llamacpp", out=tmp_path / "packed", **rest).directory.export
    whole = rest | {"model": str(packed / "model.gguf")}
    evopress.drop(fraction=0.34, target="llamacpp", out=tmp_path / "run", **whole)
    searched = load(tmp_path / "run" / "evaluation.json")["profiles"]["searched"]["bytes"]
    parts = {part.name: part for part in bytes_of(read_data(tmp_path / "run"))}["searched"]
    assert abs(parts.total - searched) < 8
    assert parts.parts["attn"] + parts.parts["mlp"] < searched  # the embedding is not in them


def test_the_page_needs_nothing_and_forbids_everything_else(runs: dict[str, Path]) -> None:
    page = page_of(*runs.values())
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            assert not attributes.get(name, "data:,").startswith(("http", "//", "/"))
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy = next(tag["content"] for tag in page.named("meta") if "http-equiv" in tag)
    assert policy.startswith("default-src 'none'")
    assert len(page.named("script")) == 1
    for figure in page.named("svg"):
        assert figure["role"] == "img"
        assert figure["aria-labelledby"] in {tag.get("id") for tag in page.named("title")}
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))


def test_hostile_names_stay_text(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["bits"], run)
    unit = load(run / "space.json")["units"][0]["name"]
    for file in ("space.json", "profile.json", "evaluation.json"):
        text = (run / file).read_text()
        text = text.replace(json.dumps(unit), json.dumps(unit + HOSTILE)).replace('"dp"', json.dumps("dp" + HOSTILE))
        (run / file).write_text(text)
    config = (run / "config.toml").read_text()
    model = json.dumps(read_data(run).config.model.source)
    (run / "config.toml").write_text(config.replace(model, json.dumps("model/" + HOSTILE)))
    page = page_of(run)
    assert len(page.named("script")) == 1
    assert unit + HOSTILE in page.cells
    assert page.text.count(HOSTILE) >= 4
    assert "49" not in page.cells[unit + HOSTILE]["title"]


def test_what_learning_changed_is_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["bits"], run)
    assert "What learning changed" not in page_of(run).text
    watched = {"unpolished": 0.5, "blocks": 0.25}
    record = PolishRecord({}, {}, done=True, result="blocks", blocks=((0.2, 0.1), (0.4, 0.1)), watched=watched)
    (run / "polished").mkdir()
    write_record(run / "polished", record)
    rows = load(run / "evaluation.json")
    rows["profiles"]["polished"] = rows["profiles"]["searched"]
    (run / "evaluation.json").write_text(json.dumps(rows))
    page = page_of(run)
    assert "What learning changed" in page.text
    assert "block 1: 0.4 before, 0.1 after" in page.text
    assert "0.2500" in page.text
    assert page.source.count('<tr class="searched">') == 1
    assert '<tr class="searched"><th scope="row">polished' in page.source


def test_tasks_are_shown_with_their_errors(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["bits"], run)
    scores = {"dense": 0.75, "uniform": 0.5, "searched": 0.625}
    profiles = {name: {"arc<b>": {"acc": value, "acc_stderr": 0.0123}} for name, value in scores.items()}
    found = {"tasks": ["arc<b>"], "settings": {"fewshot": 5, "limit": None, "seed": 0}, "profiles": profiles}
    (run / "tasks.json").write_text(json.dumps({"schema": 1, "evaluations": [found]}))
    page = page_of(run)
    assert {key: value for key, value in page.values.items() if key.startswith("tasks")} == {
        f"tasks1.{name}.arc<b>.acc": value for name, value in scores.items()
    }
    assert page.text.count("± 0.0123") == 3
    assert "arc<b> acc" in page.text
    assert "fewshot 5, seed 0" in page.text


def unfinished(run: Path, target: Path, lines: int, cut: int = 0) -> Path:
    """A copy of a run as a kill leaves it: only so many lines of the journal, the last one without its end."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("export", "report.html", "profile.*", "evaluation.json"))
    for name, kept in (("journal.jsonl", lines), ("progress.jsonl", lines - 2)):
        whole = (run / name).read_bytes().split(b"\n")[:kept]
        (target / name).write_bytes((b"\n".join(whole) + b"\n")[: -cut or None])
    return target


@pytest.mark.parametrize("name", ["bits", "sparsity", "depth"])
def test_a_killed_run_says_so_and_shows_what_there_is(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    run = unfinished(runs[name], tmp_path / "run", lines=6, cut=10)
    page = page_of(run)
    assert "This run is not finished" in page.text
    assert page.values == {}
    assert page.cells
    assert len(page.named("circle")) > 2
    assert "Make this run again" in page.text
    assert "Serve the checkpoint" not in page.text
    assert f"After generation {read_data(run).batches[-2]['generation']} of 3" in page.text


def test_uniform_where_units_call_their_levels_differently(tmp_path: Path, small_other: dict[str, Any]) -> None:
    config = gguf_config("llama", width=64, blocks=2, intermediate_size=256)  # 256 divides one matrix of seven
    random_model(config).save_pretrained(tmp_path / "model")
    merging_tokenizer().save_pretrained(tmp_path / "model")
    own = small_other | {"model": str(tmp_path / "model")}
    evopress.quantize(bits=5, target="llamacpp", out=tmp_path / "run", **own)
    data = read_data(tmp_path / "run")
    assert data.uniform == dict(Workspace(read_run(tmp_path / "run"), Observer()).space.uniform().items())
    assert len(set(data.uniform.values())) > 1
    assert any(cell.step for cell in cells(data))
    assert "Blue has more than the uniform profile" in page_of(tmp_path / "run").text


def test_the_verdict_on_equal_scores() -> None:
    rows = {"dense": {"kl": 0.0}, "shortgpt": {"kl": 0.5}, "searched": {"kl": 0.5}}
    assert verdict({"profiles": rows}) == "The searched profile's KL is that of shortgpt."


def test_a_difference_that_rounds_to_nothing_is_said_to_be_small() -> None:
    rows = {"dense": {"kl": 0.0}, "uniform": {"kl": 1.0}, "dp": {"kl": 2.0}, "searched": {"kl": 0.997}}
    said = verdict({"profiles": rows})
    assert said == "The searched profile's KL is less than 1% below uniform and 50% below the knapsack."


@pytest.mark.parametrize(
    "missing", [("space.json",), ("journal.jsonl",), ("progress.jsonl",), ("space.json", "journal.jsonl")]
)
def test_runs_that_have_hardly_begun(runs: dict[str, Path], tmp_path: Path, missing: tuple[str, ...]) -> None:
    run = unfinished(runs["bits"], tmp_path / "run", lines=4)
    for name in missing:
        (run / name).unlink()
    assert "This run is not finished" in page_of(run).text


def test_without_progress_the_journal_tells_the_generations(runs: dict[str, Path], tmp_path: Path) -> None:
    from evopress.report.history import generations

    run = tmp_path / "run"
    shutil.copytree(runs["bits"], run)
    known = generations(read_data(run))
    (run / "progress.jsonl").unlink()
    told = generations(read_data(run))
    assert [one.accepted for one in told] == [one.accepted for one in known]
    assert [one.fitness for one in told] == [one.fitness for one in known]
    measured = known[0].tokens - told[0].tokens  # sensitivities, which no journal has
    assert [one.tokens + measured for one in told] == [one.tokens for one in known]
    assert {one.seconds for one in told} == {None}


def test_a_journal_damaged_in_the_middle_is_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    run = unfinished(runs["bits"], tmp_path / "run", lines=6)
    lines = (run / "journal.jsonl").read_bytes().split(b"\n")
    lines[2] = lines[2][:-9]
    (run / "journal.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"line 3 of .* is damaged"):
        read_journal(run / "journal.jsonl")


def test_several_runs_have_a_front(runs: dict[str, Path]) -> None:
    page = page_of(runs["bits"], runs["sparsity"], runs["depth"], runs["bits"])
    assert "3 runs of" in page.text
    assert len(page.named("details")) >= 3
    points = [
        (row["bytes"], row["kl"])
        for run in runs.values()
        for row in [load(run / "evaluation.json")["profiles"]["searched"]]
    ]
    best = [a for a in points if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points)]
    assert page.text.count("searched, on the front") == 1
    assert "searched depth at 0.34 of the depth dropped: " in page.text
    dots = [tag for tag in page.named("circle") if tag["class"] == "accepted"]
    assert len(dots) >= len(best)


def test_runs_of_different_models_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs["bits"], other)
    journal = (other / "journal.jsonl").read_text()
    model = json.loads(journal.split("\n")[0])["fingerprint"]["model"]
    (other / "journal.jsonl").write_text(journal.replace(model, "0" * 64))
    with pytest.raises(RunMismatch, match="one report is for runs of one model"):
        write_report([runs["bits"], other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_no_run_and_damaged_files_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in"):
        write_report([tmp_path], tmp_path / "report.html")
    shutil.copytree(runs["bits"], tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json is damaged"):
        write_report([tmp_path / "run"], tmp_path / "report.html")


OTHERS: list[dict[str, Any]] = [
    {"bits": 2.5, "group_size": 0, "levels": (2, 4), "symmetric": True, "preset": "paper", "data": "a file.txt"},
    {"bpw": 4.1, "mutation": "adaptive", "time": "30m", "race": False, "start": "coarse"},
    {"sparsity": "0.6", "pattern": "2:4", "method": "wanda", "seed": 7, "token_limit": 10**6},
    {"fraction": "1/3", "counts": "bytes", "protected": ("model.layers.0", "model.layers.1"), "granularity": "pair"},
    {"bits": 4, "target": "vllm", "group_size": 64, "embeddings": False, "start_profile": "runs/other/profile.json"},
]


@pytest.mark.parametrize("options", OTHERS, ids=lambda options: next(iter(options)))
def test_the_command_to_reproduce_gives_the_same_configuration(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = resolve("my model", **options), tmp_path / "a run"
    (out).mkdir()
    (out / "config.toml").write_text(to_toml(config))
    seen = []

    def catch(config: Any, out: Path, screen: Any, track: Any) -> Any:
        seen.append((config, out))
        raise KeyboardInterrupt

    monkeypatch.setattr("evopress.pipeline.run_all", catch)
    with pytest.raises(SystemExit):
        main(shlex.split(reproduce(config, str(out)))[1:])
    assert seen == [(config, out)]
