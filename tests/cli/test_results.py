"""The commands that make several results, or show them: their output, and their errors in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.conftest import FLAGS

from evopress import errors

Call = Callable[..., Any]


def test_a_sweep_prints_its_table_or_its_data(call: Call, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    flags = [*FLAGS.replace("--bits 3", "--bits 2.5,3").split(), "--start", "knapsack", "--generations", "1"]
    command = ("sweep", checkpoint, "-o", tmp_path / "sweep", "--data", text, *flags)
    shown = call(*command)
    assert shown.code == 0, shown.err
    for word in ("2.5", "on the front", "report.html"):
        assert word in shown.out
    data = json.loads(call(*command, "--json").out)
    assert data == json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert call(*command, "--bits", "2.5,4").code == errors.RunMismatch.exit_code


def test_report_writes_where_it_is_told_and_refuses_other_models(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    assert str(tmp_path / "page.html") in call("report", tmp_path / "run", "-o", tmp_path / "page.html").out
    assert (tmp_path / "page.html").read_text() == (tmp_path / "run" / "report.html").read_text()
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    journal = tmp_path / "other" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"model":"', '"model":"0'))
    refused = call("report", tmp_path / "run", tmp_path / "other", "-o", tmp_path / "both.html")
    assert refused.code == errors.RunMismatch.exit_code
    assert refused.err.strip().splitlines()[-1].endswith("one report is for runs of one model")
    assert not (tmp_path / "both.html").exists()
