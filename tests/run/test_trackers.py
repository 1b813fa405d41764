"""Trackers: the same numbers reach each of them, none is imported unasked, and a missing package is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import evopress
from evopress.cli import main
from evopress.errors import ConfigError, MissingExtra
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.run.trackers import TRACKERS, tracked
from evopress.settings.config import flat
from evopress.settings.resolve import resolve


@pytest.fixture(scope="module")
def run(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that TensorBoard tracked, searched a second time after it had lost its result."""
    from tests.conftest import SMALL

    out = tmp_path_factory.mktemp("tracked") / "run"
    for _ in range(2):
        evopress.quantize(str(checkpoint), data=str(text), out=out, track=("tensorboard",), **SMALL)
        last = (out / "profile.json").read_bytes()
        for name in ("profile.json", "evaluation.json"):
            (out / name).rename(out / f"{name}.kept")
    for name in ("profile.json", "evaluation.json"):
        (out / f"{name}.kept").rename(out / name)
    assert (out / "profile.json").read_bytes() == last
    return out


def logged(run: Path) -> Any:
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_shows_the_numbers_of_the_files(run: Path) -> None:
    events = logged(run)
    ends = [
        line
        for line in map(json.loads, (run / "progress.jsonl").read_text().splitlines())
        if line["accepted"] is not None
    ]
    assert [event.value for event in events.Scalars("search/tokens")] == [line["tokens"] for line in ends]
    assert [event.step for event in events.Scalars("search/fitness")] == [0, 1, 2, 3]
    for event, line in zip(events.Scalars("search/fitness"), ends, strict=True):
        assert event.value == pytest.approx(line["score"], rel=1e-6)
    rows = json.loads((run / "evaluation.json").read_text())["profiles"]
    for name, row in rows.items():
        [event] = events.Scalars(f"heldout/{name}/kl")
        assert event.value == pytest.approx(row["kl"], rel=1e-6)
        assert event.step == 3


def test_a_search_alone_is_tracked_too(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard", "profile.*", "export"))
    with pytest.raises(SystemExit) as ended:
        main(["search", str(tmp_path / "run"), "--track", "tensorboard"])
    assert not ended.value.code
    assert [event.step for event in logged(tmp_path / "run").Scalars("search/fitness")] == [0, 1, 2, 3]


class FakeRun:
    """What wandb.init and trackio.init return, as far as it is used."""

    def __init__(self, **given: Any) -> None:
        self.given, self.logged, self.finished = given, list[tuple[dict[str, float], int]](), 0

    def log(self, data: dict[str, float], step: int) -> None:
        assert not self.finished
        self.logged.append((data, step))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_one_call_a_generation(
    run: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[FakeRun] = []

    def init(**given: Any) -> FakeRun:
        sys.stdout.write("a greeting that would spoil --json")
        made.append(FakeRun(**given))
        return made[-1]

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    config = read_run(run).config
    (tmp_path / "run").mkdir()
    for file in ("config.toml", "journal.jsonl"):
        (tmp_path / "run" / file).write_bytes((run / file).read_bytes())
    from evopress.pipeline import run_all

    run_all(config, tmp_path / "run", Observer(), track=(name,))
    [fake] = made
    assert fake.given["project"] == "evopress"
    assert fake.given["name"] == "run"
    assert fake.given["config"] == flat(config)
    assert [step for _, step in fake.logged] == [0, 1, 2, 3, 3]
    assert (
        fake.logged[-1][0]["heldout/searched/kl"]
        == json.loads((tmp_path / "run" / "evaluation.json").read_text())["profiles"]["searched"]["kl"]
    )
    assert fake.finished == 1
    assert capsys.readouterr().out == ""


def test_a_missing_package_is_one_line_before_any_work(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=rf"pip install 'evopress\[{name}\]'"):
            evopress.quantize(**small, out=tmp_path / "run", track=(name,))
    with pytest.raises(ConfigError, match="unknown tracker 'mlflow'; use tensorboard, wandb, trackio"):
        evopress.quantize(**small, out=tmp_path / "run", track=("mlflow",))
    assert not (tmp_path / "run").exists()


def test_none_is_imported_unasked() -> None:
    script = (
        f"import sys, evopress.run.trackers; print([name for name in {('torch', *TRACKERS)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_names_the_observer_itself_is_used(tmp_path: Path) -> None:
    observer = Observer()
    with tracked(observer, (), resolve("demo", bits=3), tmp_path) as found:
        assert found is observer
