"""Ctrl-C in every phase: exit code 130, one line that says how to go on, and the same files after going on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evopress.cli.show import Screen

Call = Callable[..., Any]
NAMES = ("journal.jsonl", "profile.json", "profile.txt")
PHASES = ("build", "search", "evaluate", "export")


def files(run: Path) -> dict[str, bytes]:
    """What a run found and wrote."""
    paths = [run / name for name in NAMES] + [p for part in ("database", "export") for p in (run / part).iterdir()]
    scores = json.loads((run / "evaluation.json").read_text())["profiles"]  # beside them stands how long it took
    return {"scores": repr(scores).encode()} | {str(path.relative_to(run)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first uninterrupted run of this module lies."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Python hears SIGINT as it does in a terminal, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("moment", ["begin", "middle"])
def test_ctrl_c_in_any_phase_loses_nothing(
    quantize: Call, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, moment: str
) -> None:
    out, pressed = tmp_path / "run", []
    drawn = Screen.progress

    def progress(self: Screen, name: str, done: float, total: float, detail: str = "") -> None:
        drawn(self, name, done, total, detail)
        if name == phase and not pressed and (moment == "begin" or 2 * done >= total):
            pressed.append(name)
            os.kill(os.getpid(), signal.SIGINT)

    if not list(whole.iterdir()):
        assert quantize(whole / "run").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "progress", progress)
        result = quantize(out)
    assert pressed == [phase]
    assert result.code == 130, result.err
    assert "the same command goes on" in result.err.splitlines()[-1]
    assert not (out / "export").exists() or phase == "export"
    assert quantize(out).code == 0
    assert files(out) == files(whole / "run")
