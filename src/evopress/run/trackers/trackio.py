"""trackio: a run of the local project `evopress`; `trackio show` opens its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evopress.run.trackers.tracker import Tracker, require
from evopress.settings.config import Config, flat


class Writer(Tracker):
    """One trackio run for each process."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._trackio, self._config, self._name = require("trackio", "trackio"), config, directory.name

    def open(self) -> Any:
        """A new run, named like the directory."""
        return self._trackio.init(project="evopress", name=self._name, config=flat(self._config), embed=False)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One call a step."""
        self.opened.log(dict(values), step=step)

    def finish(self) -> None:
        """Write what is left."""
        self.opened.finish()
