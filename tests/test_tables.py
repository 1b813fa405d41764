"""benchmarks/tables.py: a job's lines are kept, so that nothing is done twice, whoever did it and wherever."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evopress.errors import RunLocked
from evopress.run.directory import locked
from evopress.settings.config import Config
from evopress.settings.resolve import resolve


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import tables

    yield tables
    del sys.modules["tables"], sys.modules["tables_report"], sys.modules["long_run"]


@pytest.fixture
def setting(tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_other: dict[str, Any]) -> Any:
    """A pico model in place of SmolLM2, with everything small."""
    options = small_other | {"start_candidates": 2}

    def config(self: Any, job: Any) -> Config:
        return resolve(seed=job.seed or 0, fraction=job.target.split("=")[1], **options)

    monkeypatch.setattr(tables.Setting, "config", config)
    return tables.Setting(
        tmp_path, small_other["model"], small_other["data"], small_other["data"], "quick", tmp_path / "rows.jsonl", {}
    )


def test_finished_jobs_are_not_repeated_when_their_directories_are_gone(tables: ModuleType, setting: Any) -> None:
    wanted = tables.jobs(("fraction=0.34",), 2)
    tables.run_all(setting, wanted)
    lines = [json.loads(line) for line in setting.rows.read_text().splitlines()]
    deterministic = {"dense", "shortgpt", "weight-subcloning", "sliding-window", "shortened-llama", "greedy"}
    assert {line["method"] for line in lines if line["seed"] is None} == deterministic
    assert [(line["seed"], line["method"]) for line in lines if line["seed"] is not None] == [
        (0, "searched"), (0, "best-of"), (1, "searched"), (1, "best-of"),
    ]  # fmt: skip
    for job in wanted:
        shutil.rmtree(setting.folder / job.name)
    tables.run_all(setting, wanted)
    assert len(setting.rows.read_text().splitlines()) == len(lines)
    text = tables.report(setting.rows)
    assert "fraction 0.34 (2 seeds)" in text
    assert "±" in next(line for line in text.splitlines() if line.startswith("| searched"))
    overview = text.partition("### Depth: KL on the second text")[0].splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in overview if line.startswith("| ")}
    kls = {method: float(cell.strip("*").split()[0]) for method, cell in cells.items() if method}
    assert kls.keys() == (deterministic - {"dense"}) | {"searched", "best-of"}
    bold = {method for method, cell in cells.items() if cell.startswith("**")}
    assert bold
    assert all(kls[method] == min(kls.values()) for method in bold)


def test_a_job_of_a_live_process_is_left_to_it(tables: ModuleType, setting: Any) -> None:
    [baselines, first] = tables.jobs(("fraction=0.34",), 1)
    with locked(setting.folder / first.name), pytest.raises(RunLocked):
        tables.run(first, tables.Shared(setting))
    assert tables.missing(setting, [baselines, first]) == [baselines, first]


def test_all_targets_and_seeds_are_there(tables: ModuleType) -> None:
    found = tables.jobs(tables.TARGETS, 3)
    assert len(found) == len(set(found)) == 4 * 9
    assert [job.seed for job in found[:2]] == [None, 0]
