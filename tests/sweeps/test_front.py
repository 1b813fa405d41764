"""Several budgets in a row: one database, warm starts, resumable, and another configuration refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import evopress
from evopress.errors import ConfigError, RunError, RunMismatch
from evopress.report import data
from evopress.run.directory import read_run
from evopress.sweeps import plan, table

BITS = (2.5, "3", 3.5)


@pytest.fixture(scope="module")
def settings(checkpoint: Path, text: Path) -> dict[str, Any]:
    from tests.conftest import SMALL

    return {"model": str(checkpoint), "data": str(text)} | SMALL | {"bits": BITS, "generations": 1, "start": "knapsack"}


@pytest.fixture(scope="module")
def swept(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    evopress.sweep(**settings, out=out)
    return out


def test_one_database_one_run_a_target_and_the_files_that_show_all(swept: Path) -> None:
    assert {path.name for path in swept.iterdir()} == {
        ".lock", "sweep.toml", "database-3", "database-4", "2.5", "3", "3.5", "sweep.json", "pareto.svg", "report.html",
    }  # fmt: skip
    found = json.loads((swept / "sweep.json").read_text())
    assert [row["target"] for row in found["targets"]] == ["3.5", "3", "2.5"]
    for row in found["targets"]:
        run = swept / row["directory"]
        assert row["profiles"] == json.loads((run / "evaluation.json").read_text())["profiles"]
        assert row["profiles"]["searched"]["bits"] <= float(row["target"])
        assert not (run / "database").exists()
        assert not (run / "export").exists()
    figure = ElementTree.parse(swept / "pareto.svg").getroot()
    titles = [title.text for title in figure.iter("{http://www.w3.org/2000/svg}title")]
    for target in ("3.5", "3", "2.5"):
        assert any(str(title).startswith(f"searched bits at {target} bits: ") for title in titles)
    front = [row["profiles"]["searched"] for row in found["targets"] if row["front"]]
    assert front
    assert sorted(front, key=lambda row: row["bytes"]) == sorted(front, key=lambda row: -row["kl"])


def test_each_search_knows_its_neighbours_result(swept: Path, settings: dict[str, Any]) -> None:
    configs = plan(out=swept, **settings)
    assert [config.search.start_profile for config in configs] == [
        None, str(swept / "3.5" / "profile.json"), str(swept / "3" / "profile.json"),
    ]  # fmt: skip
    starts = data.read_data(swept / "3").batches[0]["scores"]
    assert len(starts) > 2  # a budget that uniform meets has uniform and knapsack alone


def test_the_same_sweep_again_changes_nothing_and_a_lost_run_comes_back(swept: Path, settings: dict[str, Any]) -> None:
    names = ["sweep.json", "pareto.svg", "report.html", "3/journal.jsonl", "3/profile.json"]
    before = {name: (swept / name).read_bytes() for name in names}
    (swept / "2.5" / "profile.json").unlink()
    lost = (swept / "2.5" / "journal.jsonl").read_bytes()
    evopress.sweep(**settings, out=swept)
    assert {name: (swept / name).read_bytes() for name in names} == before
    assert (swept / "2.5" / "journal.jsonl").read_bytes() == lost


def test_it_goes_on_from_another_directory(
    swept: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept / "3")
    evopress.sweep(**settings, out="..")
    assert read_run(Path()).database.samefile(swept / "database-3")


@pytest.mark.parametrize(
    ("change", "part"),
    [({"bits": (2.5, 3)}, "targets: 3.5,3,2.5 -> 3,2.5"), ({"seed": 4}, "search.seed: 0 -> 4")],
)
def test_another_sweep_is_refused(swept: Path, settings: dict[str, Any], change: dict[str, Any], part: str) -> None:
    with pytest.raises(RunMismatch, match=part.replace(".", r"\.")):
        evopress.sweep(**settings | change, out=swept)


def test_a_directory_that_holds_something_else(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds none of these runs"):
        evopress.sweep(**settings, out=tmp_path)
    with pytest.raises(RunError, match="is a file"):
        evopress.sweep(**settings, out=tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("targets", "part"),
    [
        ({"bits": (3,)}, "at least two"),
        ({"bits": (3, "3.0")}, "at least two"),
        ({"bits": ("3", "four")}, "expected numbers"),
        ({"bits": None}, "got none"),
        ({"sparsity": (0.4, 0.5)}, "bits and sparsity"),
        ({"bits": (3, 9)}, "lie outside the levels"),
    ],
)
def test_targets_that_make_no_sweep(
    settings: dict[str, Any], tmp_path: Path, targets: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        evopress.sweep(**settings | targets, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_depth_and_sparsity_sweep_too(settings: dict[str, Any], tmp_path: Path) -> None:
    rest = {name: value for name, value in settings.items() if name not in ("bits", "levels", "group_size")}
    depth = evopress.sweep(**rest, fraction=(0.34, 0.67), out=tmp_path / "depth")
    assert [row["target"] for row in table(depth)["targets"]] == ["0.34", "0.67"]
    sparse = plan(out=tmp_path / "sparse", **rest, sparsity=(0.6, 0.4))
    assert [config.budget.target for config in sparse] == ["0.4", "0.6"]
    assert [config.compression.database for config in sparse] == [None, None]  # levels are counted from the target
    patterns = plan(out=tmp_path / "sparse", **rest, sparsity=(0.6, 0.4), pattern="2:4")
    assert len({config.compression.database for config in patterns}) == 1
