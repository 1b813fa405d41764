"""A run directory: the resolved configuration, a lock, and the names of everything else in it.

    config.toml  database/  sensitivity-*.json  space.json  journal.jsonl  progress.jsonl  profile.json  polished/
    polished-uniform/  again/  evaluation.json  report.html  export/

The lock belongs to the process, so a killed run leaves none behind. Model and text are loaded when first needed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evopress.core.files import write_text
from evopress.errors import RunError, RunLocked, RunMismatch
from evopress.settings.config import Config, differences, from_toml, to_toml


class RunDirectory:
    """Paths of one run and the configuration that it was made with."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        shared = getattr(config.compression, "database", None)
        self.database = Path(shared) if shared else path / "database"
        self.journal = path / "journal.jsonl"
        self.space = path / "space.json"
        self.progress = path / "progress.jsonl"
        self.profile = path / "profile.json"
        self.polished = path / "polished"
        self.polished_uniform = path / "polished-uniform"
        self.again = path / "again"
        self.evaluation = path / "evaluation.json"
        self.timing = path / "timing.json"
        self.comparison = path / "comparison.json"
        self.tasks = path / "tasks.json"
        self.report = path / "report.html"
        self.export = path / "export"

    def sensitivity(self, number: int, seed: int | None = None) -> Path:
        """Where the sensitivities of a round are kept: the run's own, or those of a comparison with another seed."""
        if seed is None or seed == self.config.search.seed:
            return self.path / f"sensitivity-{number}.json"
        return self.path / "compare" / f"sensitivity-seed{seed}-{number}.json"

    def export_to(self, format: str) -> Path:
        """Where an export of that format goes: `export/` is for the run's own."""
        return self.export if format == self.config.format else self.path / f"export-{format}"

    @property
    def begun(self) -> bool:
        """Whether there is work that another configuration would spoil; a database says itself what it is made of."""
        return self.journal.exists()


def read_run(path: Path) -> RunDirectory:
    """The run in an existing directory; RunError when there is none."""
    file = path / "config.toml"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        raise RunError(
            f"no run in {path}: {file} is missing; start one with 'evopress quantize MODEL -o {path}'"
        ) from None
    return RunDirectory(path, from_toml(text, str(file)))


def require_run_or_empty(path: Path) -> None:
    """RunError when `path` is a file, or a directory that holds something else than a run; touches nothing."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; give a directory for the run")
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if "config.toml" not in found and found - {".lock", "config.toml.partial"}:  # what a kill at the start leaves
        raise RunError(f"{path} is not empty and holds no run; give a new or empty directory")


def start_run(path: Path, config: Config) -> RunDirectory:
    """Make a run directory, or go on with one that was made by the same configuration.

    One that holds nothing but another configuration is taken over: a command that failed on a typo leaves it so. How to
    polish may change until something is polished or evaluated.
    RunMismatch says what differs; RunError when `path` holds something else.
    """
    require_run_or_empty(path)
    if (path / "config.toml").exists():
        existing = read_run(path)
        changed = differences(existing.config, config)
        last = existing.polished.exists() or existing.evaluation.exists()
        if existing.begun and any(last or not one.startswith("polish.") for one in changed):
            raise RunMismatch(f"{path} was made with other settings ({'; '.join(changed)}); use another directory")
        if not changed:
            return existing
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / "config.toml", to_toml(config))
    return RunDirectory(path, config)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory's lock, making the directory; RunLocked when a live process has it."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(f"{path} is in use by a live process; wait for it or use another directory") from None
        yield
