"""The benchmark of searches runs end to end on a pico model, shared by processes, and its tables say what it found."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from evopress.fitness.sensitivity import measure_sensitivity

FOLDER = Path(__file__).parents[1] / "benchmarks"
SETTINGS = (
    "sequence_length=16 calibration_tokens=256 search_tokens=512 heldout_tokens=128 levels=[2,3,4] group_size=16 "
    "offspring=4 survivors=[2,1] tokens_per_stage=[32,64] start_tokens=32 sensitivity_tokens=[32,64] race=true"
)


def command(folder: Path, checkpoint: Path, text: Path) -> list[str]:
    """Two jobs of a task."""
    arguments = [str(FOLDER / "efficiency.py"), str(folder), "--model", str(checkpoint), "--only", "bits-3"]
    arguments += [
        "--seeds",
        "1",
        "--our-tokens",
        "2500",
        "--paper-tokens",
        "1500",
        "--rows",
        str(folder / "rows.jsonl"),
    ]
    return [*arguments, "--set", f"data={text}", *SETTINGS.split()]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("efficiency")
    finally:
        sys.path.remove(str(FOLDER))


def test_two_processes_share_the_jobs_and_a_finished_one_is_not_repeated(
    benchmark: ModuleType,
    checkpoint: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = command(tmp_path, checkpoint, text)
    other = subprocess.Popen([sys.executable, *ours], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    monkeypatch.setattr(sys, "argv", ours)
    benchmark.main()
    assert other.communicate(timeout=300)[1] == "" or other.returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["method"] for row in rows) == ["auto", "paper"]
    for row in rows:
        tokens = [point["tokens"] for point in row["curve"]]
        assert tokens == sorted(set(tokens))
        early = [point for point in row["curve"] if point["generation"] == 0]
        assert len(early) == {"auto": 2, "paper": 0}[row["method"]]  # the first round's best, and the start
        assert tokens[-1] == row["total"]
        assert all(point["kl"] > 0 for point in row["curve"])
        assert row["search"]["start"] == {"auto": "sensitivity", "paper": "uniform"}[row["method"]]
    before = (tmp_path / "rows.jsonl").read_bytes()
    capsys.readouterr()
    benchmark.main()
    printed = capsys.readouterr().out
    assert printed.startswith("0 runs")
    assert "| auto | 1 |" in printed
    assert "paper, seed 0, 1,500 tokens" in printed
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_an_interrupted_job_goes_on_to_the_same_line(
    benchmark: ModuleType, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [*command(tmp_path, checkpoint, text)]
    ours[ours.index("bits-3")] = "bits-3-auto"
    monkeypatch.setattr(sys, "argv", ours)
    benchmark.main()
    rows, folder = tmp_path / "rows.jsonl", next(tmp_path.glob("bits-3-auto*"))
    whole = json.loads(rows.read_text())
    rows.unlink()
    journal = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(journal[: len(journal) // 2]))
    (folder / "profile.json").unlink()
    benchmark.main()
    again = json.loads(rows.read_text())
    for line in (whole, again):
        del line["seconds"], line["cpu_seconds"]
    assert again == whole


def test_runs_of_one_seed_share_what_was_measured_and_count_its_tokens(
    benchmark: ModuleType, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    monkeypatch.setattr("evopress.steps.strategies.measure_sensitivity", counted := Mock(wraps=measure_sensitivity))
    for method in ("auto", "only-start"):
        ours = [*command(tmp_path, checkpoint, text), "--ablation"]
        ours[ours.index("bits-3")] = f"bits-3-{method}-0"
        monkeypatch.setattr(sys, "argv", ours)
        benchmark.main()
        assert counted.call_count == 2  # two rounds, measured by the first run only
    auto, only = (json.loads(line)["curve"][:2] for line in rows.read_text().splitlines())
    assert only == auto


def row(method: str, curve: list[tuple[int, float]]) -> dict[str, object]:
    points = [{"tokens": tokens, "generation": i, "kl": kl} for i, (tokens, kl) in enumerate(curve)]
    return {
        "task": "bits-3",
        "method": method,
        "seed": 0,
        "tokens": curve[-1][0],
        "total": curve[-1][0],
        "curve": points,
        "references": [1.25, 1.6],
        "names": ["uniform", "dp"],
    }


def test_tables_compare_at_equal_tokens_and_until_equal_kl(benchmark: ModuleType) -> None:
    tables = importlib.import_module("efficiency_tables")
    paper = row("paper", [(50_000, 1.2), (400_000, 0.97), (800_000, 0.95)])
    ours = row("auto", [(80_000, 0.96), (120_000, 0.94), (160_000, 0.951), (200_000, 0.93), (400_000, 0.9)])
    assert tables.kl_at(paper, 30_000) is None
    assert tables.kl_at(paper, 410_000) == 0.97
    assert tables.tokens_until(ours, 0.95) == 200_000  # it did not stay there before
    report = tables.report([paper, ours])
    assert "| 0 | 0.9500 | 800,000 | 200,000 | 0.25 |" in report
    assert "not worse than uniform, dp" in report
    worse = tables.report([row("auto", [(80_000, 1.3)])])
    assert "1.3000, WORSE than uniform" in worse
