"""Weights & Biases: a run of the project `evopress`; its own environment variables (WANDB_MODE=offline, ...) hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evopress.run.trackers.tracker import Tracker, require
from evopress.settings.config import Config, flat


class Writer(Tracker):
    """One W&B run for each process; its files lie in `wandb/` of the run directory."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._wandb, self._config, self._directory = require("wandb", "wandb"), config, directory

    def open(self) -> Any:
        """A new run, named like the directory."""
        where = {"name": self._directory.name, "dir": str(self._directory)}
        return self._wandb.init(project="evopress", config=flat(self._config), **where)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One call a step."""
        self.opened.log(dict(values), step=step)

    def finish(self) -> None:
        """Upload what is left."""
        self.opened.finish()
