"""A searched run on a pico model, to be polished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evopress import pipeline
from evopress.run.directory import RunDirectory, read_run, start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

POLISH: dict[str, Any] = {
    "polish_epochs": 3,
    "polish_batch": 64,
    "polish_tokens": 448,
    "polish_watched": 64,
    "polish_code_rate": 0.1,
    "polish_scale_rate": 0.01,
    "polish_model_epochs": 2,
    "polish_model_rate": 0.002,
    "dtype": "float32",
}

Fresh = Callable[[], RunDirectory]


def searched(out: Path, options: dict[str, Any]) -> RunDirectory:
    """A run that has a profile."""
    workspace = Workspace(start_run(out, resolve(**options, **POLISH)), Observer())
    pipeline.build(workspace)
    pipeline.search(workspace)
    return workspace.run


@pytest.fixture(scope="session")
def original(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """One searched run for all tests; they polish copies of it."""
    options = {
        "model": str(checkpoint),
        "data": str(text),
        "bits": 3,
        "levels": (2, 3, 4),
        "group_size": 16,
        "symmetric": True,
    }
    sizes = {"sequence_length": 16, "calibration_tokens": 256, "search_tokens": 512, "heldout_tokens": 256}
    search = {"generations": 2, "offspring": 4, "survivors": (1,), "tokens_per_stage": (64,), "start_tokens": 32}
    out = tmp_path_factory.mktemp("polish") / "run"
    return searched(out, options | sizes | search | {"sensitivity_tokens": (64, 128)})


@pytest.fixture
def fresh(original: RunDirectory, tmp_path: Path) -> Fresh:
    """`fresh()` is a new copy of the searched run."""
    count = iter(range(100))

    def copy() -> RunDirectory:
        return read_run(Path(shutil.copytree(original.path, tmp_path / f"run{next(count)}")))

    return copy
