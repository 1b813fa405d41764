"""Ctrl-C in every phase: exit code 130, one line that says how to go on, and the same files after going on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evopress.cli.show import Screen

Call = Callable[..., Any]
NAMES = ("journal.jsonl", "profile.json", "profile.txt")
PHASES = ("build", "search", "evaluate", "export")
CASES = [
    *(("quantize", phase, "middle") for phase in PHASES),
    ("quantize", "build", "begin"),
    *(("compress", phase, "begin") for phase in ("search", "evaluate", "export")),
    *(("compress", phase, "middle") for phase in ("measure", "search")),
]
"""The command, and where and when Ctrl-C is pressed."""
FLAGS: dict[str, tuple[str, ...]] = {"quantize": (), "compress": ("--use", "bits,depth", "--bits", "1.5")}


def files(run: Path) -> dict[str, bytes]:
    """What a run found and wrote."""
    paths = [run / name for name in NAMES] + [p for part in ("database", "export") for p in (run / part).iterdir()]
    scores = json.loads((run / "evaluation.json").read_text())["profiles"]  # beside them stands how long it took
    return {"scores": repr(scores).encode()} | {str(path.relative_to(run)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first uninterrupted run of each kind lies."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Python hears SIGINT as it does in a terminal, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("command", "phase", "moment"), CASES)
def test_ctrl_c_in_any_phase_loses_nothing(
    quantize: Call,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    phase: str,
    moment: str,
) -> None:
    out, pressed = tmp_path / "run", []
    start = partial(quantize, command=command)
    drawn = Screen.progress

    def progress(self: Screen, name: str, done: float, total: float, detail: str = "") -> None:
        drawn(self, name, done, total, detail)
        if name == phase and not pressed and (moment == "begin" or 2 * done >= total):
            pressed.append(name)
            os.kill(os.getpid(), signal.SIGINT)

    if not (whole / command).exists():
        assert start(whole / command, *FLAGS[command]).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "progress", progress)
        result = start(out, *FLAGS[command])
    assert pressed == [phase]
    assert result.code == 130, result.err
    assert "the same command goes on" in result.err.splitlines()[-1]
    assert not (out / "export").exists() or phase == "export"
    assert start(out, *FLAGS[command]).code == 0
    assert files(out) == files(whole / command)
