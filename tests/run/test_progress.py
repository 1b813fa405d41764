"""progress.jsonl and space.json: what a search leaves for those who watch it."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import evopress
from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import make_space
from evopress.run.observer import Observer
from evopress.run.progress import Progress, read_progress
from evopress.search.types import Batch, BatchResult

UNITS = [Unit(f"u{i}", i, "u", 1, (Level("2", 2), Level("4", 4))) for i in range(2)]
SPACE = make_space(UNITS, average=3, exchange="any")
FIRST, SECOND = Profile.of({"u0": "2", "u1": "4"}), Profile.of({"u0": "2", "u1": "2"})


def result(best: Profile, accepted: bool | None, replayed: bool = False) -> BatchResult:
    return BatchResult(Batch(1, 0, 10, (best,)), (0.5,), replayed, accepted, best, 0.5)


class Clock:
    """Ten seconds later whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def test_lines_hold_changes_and_an_interrupted_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    heard: list[int] = []

    class Ear(Observer):
        def batch(self, result: BatchResult, space: Any, tokens: int) -> None:
            heard.append(tokens)

    progress = Progress(path, Ear(), clock=Clock())
    progress.batch(result(FIRST, None), SPACE, 10)
    progress.batch(result(SECOND, True), SPACE, 20)
    with path.open("a") as file:
        file.write('{"batch":3,"sec')  # killed while writing
    resumed = Progress(path, Ear(), clock=Clock())
    for tokens, (best, replayed) in enumerate([(FIRST, True), (SECOND, True), (SECOND, True), (FIRST, False)], start=1):
        resumed.batch(result(best, None, replayed), SPACE, 10 * tokens)
    lines = list(read_progress(path))
    assert [line["best"] for line in lines] == [{"u0": "2", "u1": "4"}, {"u1": "2"}, {}, {"u1": "4"}]
    assert [line["seconds"] for line in lines] == [10, 20, None, 30]
    assert [line["cost"] for line in lines] == [6, 4, 4, 6]
    assert heard == [10, 20, 10, 20, 30, 40]


def test_the_seconds_of_a_killed_search_count(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.jsonl", Observer(), clock=Clock())
    progress.batch(result(FIRST, None), SPACE, 10)
    assert Progress(tmp_path / "progress.jsonl", Observer()).before == 10
    assert Progress(tmp_path / "progress.jsonl", Observer(), seconds=99).before == 99


def test_a_damaged_line_hides_what_follows_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert list(read_progress(path)) == []
    path.write_text('{"batch":1}\n{"batch":3}\n{"batch":3}\n')
    assert list(read_progress(path)) == [{"batch": 1}]
    path.write_text('{"batch":1}\nnonsense\n{"batch":3}\n')
    assert list(read_progress(path)) == [{"batch": 1}]


@pytest.fixture(scope="module")
def run(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import SMALL

    out = tmp_path_factory.mktemp("run") / "run"
    evopress.quantize(str(checkpoint), data=str(text), out=out, **SMALL)
    return out


def test_a_run_has_a_line_for_each_batch_of_its_journal(run: Path) -> None:
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()][1:]
    lines = list(read_progress(run / "progress.jsonl"))
    assert len(lines) == len(journal)
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(lines))
    best: dict[str, str] = {}
    for line in lines:
        best |= line["best"]
    found = json.loads((run / "profile.json").read_text())
    assert best == found["profile"]
    assert lines[-1]["tokens"] == found["fitness"]["tokens"]
    assert lines[-1]["cost"] == found["budget"]["cost"]


def test_space_json_says_what_could_be_chosen(run: Path) -> None:
    space = json.loads((run / "space.json").read_text())
    manifest = json.loads((run / "database" / "manifest.json").read_text())
    assert [unit["name"] for unit in space["units"]] == manifest["names"]
    for unit in space["units"]:
        for level, stored in zip(unit["levels"], manifest["units"][unit["name"]]["levels"], strict=True):
            assert (level["bits"], level["error"]) == (stored["storage_bits"], stored["error"])


def test_a_lost_progress_file_costs_nothing_but_times(run: Path, tmp_path: Path) -> None:
    from evopress.cli import main

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "progress.jsonl").unlink()
    (tmp_path / "run" / "profile.json").unlink()
    with pytest.raises(SystemExit):
        main(["search", str(tmp_path / "run")])
    again, before = (list(read_progress(path / "progress.jsonl")) for path in (tmp_path / "run", run))
    assert [line | {"seconds": None} for line in before] == again
    assert (tmp_path / "run" / "profile.json").read_bytes() == (run / "profile.json").read_bytes()
