"""The least budget that meets a goal: by bisection, shown with its neighbour, resumed, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evopress
from evopress.cli import main
from evopress.errors import BudgetError, ConfigError, RunMismatch
from evopress.run.directory import read_run
from evopress.settings.resolve import resolve
from evopress.sweeps import quality
from evopress.sweeps.quality import Goal, bisect, parse_goal


@given(st.integers(1, 200), st.data())
def test_bisection_finds_the_first_place_and_looks_at_the_one_before(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    asked: list[int] = []

    def meets(place: int) -> bool:
        asked.append(place)
        return place >= first

    assert bisect(count, meets) == first
    assert len(set(asked)) == len(asked) <= count.bit_length()
    assert first == 0 or first - 1 in asked
    assert first == count or first in asked


@pytest.fixture(scope="module")
def settings(checkpoint: Path, text: Path) -> dict[str, Any]:
    from tests.conftest import SMALL

    own = {"model": str(checkpoint), "data": str(text), "generations": 1, "start": "knapsack", "levels": (2, 3)}
    return {name: value for name, value in SMALL.items() if name != "bits"} | own


@pytest.fixture(scope="module")
def found(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search for what a run of 2.5 bits just reaches: some budget of that kind is the least."""
    folder = tmp_path_factory.mktemp("quality")
    kl = evopress.quantize(**settings, bits=2.5, out=folder / "known").evaluation
    most = kl["uncertainty"]["intervals"]["searched"]["kl"][1]
    run = evopress.smallest(**settings, kl=most, out=folder / "found")
    assert run.evaluation["uncertainty"]["intervals"]["searched"]["kl"][1] <= most
    assert (run.directory.export / "model.safetensors").exists()
    return folder / "found"


def test_one_database_a_run_for_each_probe_and_what_a_step_smaller_costs(found: Path) -> None:
    record = json.loads((found / "quality.json").read_text())
    targets = [probe["target"] for probe in record["probes"]]
    assert targets == sorted(targets, key=float)
    assert {path.name for path in found.iterdir()} == {
        ".lock", "quality.toml", "quality.json", "database", "pareto.svg", "report.html", *targets,
    }  # fmt: skip
    place = targets.index(record["answer"])
    assert [probe["meets"] for probe in record["probes"]] == [number >= place for number in range(len(targets))]
    assert float(targets[place]) - float(targets[place - 1]) == 0.125
    for probe in record["probes"]:
        run = read_run(found / probe["target"])
        assert (run.export.exists()) == (probe["target"] == record["answer"])
        assert run.config.compression.database == str(found / "database")


def test_each_probe_starts_from_the_nearest_one_before(found: Path) -> None:
    starts = {run.name: read_run(run).config.search.start_profile for run in found.iterdir() if run.name[0].isdigit()}
    assert starts.pop("2.5") is None
    assert starts
    for target, start in starts.items():
        assert start is not None
        nearest = Path(start).parent.name
        assert abs(float(nearest) - float(target)) <= abs(2.5 - float(target))


def test_what_is_finished_is_not_searched_again_and_another_goal_is_refused(
    found: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = json.loads((found / "quality.json").read_text())["goal"]
    before = (found / "quality.json").read_bytes()

    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in found.rglob("*.jsonl")}

    known = stamps()
    again = evopress.smallest(**settings, kl=goal["most"], out=found)
    assert again.directory.path.name == json.loads(before)["answer"]
    assert (found / "quality.json").read_bytes() == before
    assert stamps() == known
    with pytest.raises(RunMismatch, match=r"goal: kl .* -> kl 0\.5"):
        evopress.smallest(**settings, kl=0.5, out=found)


def test_a_goal_that_nothing_meets_says_how_far_it_is(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"no budget meets the goal, 3 bits: KL .*, asked 1e-06; ask for less"):
        evopress.smallest(**settings, kl=1e-6, out=tmp_path / "none")


def test_ggml_types_are_counted_with_all_that_they_store() -> None:
    counted, targets = quality.budgets(resolve("m", bpw=5, target="llamacpp").compression)
    assert counted == "bpw"
    assert all(float(target) * 8 == int(float(target) * 8) for target in targets)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kl": "0.1", "perplexity": "+2%"}, "either a KL or a perplexity"),
        ({"kl": "small"}, "--kl is 'small'; give the largest KL"),
        ({"kl": "-1"}, "--kl is '-1'"),
        ({"kl": "nan"}, "--kl is 'nan'"),
        ({"perplexity": "2"}, "--perplexity is '2'; give what it may rise by, such as +2%"),
    ],
)
def test_what_is_no_goal_is_refused_in_one_line(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse_goal(given.get("kl"), given.get("perplexity"))
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_a_rise_of_perplexity_is_one_beside_the_dense_model() -> None:
    goal = parse_goal(None, "+2.5%")
    assert goal == Goal("perplexity", 1.025)
    intervals = {"against": {"dense": {"perplexity": {"interval": [1.01, 1.02]}}}}
    assert goal.reached({"uncertainty": intervals, "profiles": {"searched": {}}}) == 1.02


def test_the_command_prints_the_answers_scores(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--{name.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
             for name, value in settings.items() if name not in ("model", "symmetric")]  # fmt: skip
    with pytest.raises(SystemExit):
        main(
            ["quantize", settings["model"], "--perplexity", "+100000%", "-o", str(tmp_path / "loose"), "--json", *flags]
        )
    shown = json.loads(capsys.readouterr().out)
    record = json.loads((tmp_path / "loose" / "quality.json").read_text())
    assert record["answer"] == "2"
    assert shown == json.loads((tmp_path / "loose" / "2" / "evaluation.json").read_text())
    with pytest.raises(SystemExit):
        main(["quantize", settings["model"], "--kl", "0.1", "--bits", "3", "-o", str(tmp_path / "both"), *flags])
    assert "--bits is a budget" in capsys.readouterr().err
