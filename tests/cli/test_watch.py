"""A run watched from outside: while it goes on, at its end, and with half a line in its journal."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from evopress import errors
from evopress.cli.watch import watch

Call = Callable[..., Any]


def test_a_finished_run_once(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    shown = call("watch", tmp_path / "run", "--once")
    assert shown.code == 0
    for word in ("finished", "mlp.down_proj", "searched", "generation"):
        assert word in shown.out
    last = json.loads((tmp_path / "run" / "progress.jsonl").read_text().splitlines()[-1])
    assert f"{last['score']:.5g}" in shown.out
    assert f"{last['tokens']:,}" in shown.out
    assert call("watch", tmp_path / "run").code == 0  # ends by itself


def test_watching_follows_the_files_and_ends_with_the_run(quantize: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "whole")
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", run)
    lines = (run / "journal.jsonl").read_bytes()
    (run / "profile.json").unlink()
    (run / "evaluation.json").unlink()
    out = io.StringIO()
    seen: list[str] = []

    def later(seconds: float) -> None:
        """What happens between two looks: half a line, damage while a file is replaced, then the end."""
        seen.append(out.getvalue())
        step = len(seen)
        (run / "journal.jsonl").write_bytes([lines[:-30], b"{}\n" + lines, lines, lines][step - 1])
        if step == 4:
            for name in ("profile.json", "evaluation.json"):
                shutil.copy(tmp_path / "whole" / name, run)
        assert seconds == 5

    watch(run, Console(file=out, width=120), every=5, sleep=later)
    assert len(seen) == 4
    assert out.getvalue().rstrip().splitlines()[-1].startswith("The searched profile's KL")


def test_before_the_search_and_after_a_kill(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    for name in ("profile.json", "evaluation.json"):
        (tmp_path / "run" / name).unlink()
    assert "searching, or interrupted: generation 3 of 3" in call("watch", tmp_path / "run", "--once").out
    for name in ("journal.jsonl", "progress.jsonl", "space.json"):
        (tmp_path / "run" / name).unlink()
    assert "has not begun" in call("watch", tmp_path / "run", "--once").out


def test_ctrl_c_leaves_and_no_run_is_one_line(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    out = io.StringIO()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    watch(tmp_path / "run", Console(file=out), sleep=interrupt)
    assert out.getvalue().endswith("left; the run goes on\n")
    assert call("watch", tmp_path).code == errors.RunError.exit_code
