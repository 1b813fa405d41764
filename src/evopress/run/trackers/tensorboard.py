"""TensorBoard: event files in `tensorboard/` of the run directory; `tensorboard --logdir DIR` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evopress.run.trackers.tracker import Tracker, require
from evopress.settings.config import Config, to_toml


class Writer(Tracker):
    """Writes through torch's own writer. Events of an interrupted search are superseded by those of the resumed one."""

    def __init__(self, config: Config, directory: Path) -> None:
        require("tensorboard", "tensorboard")
        self._config, self._directory = config, directory / "tensorboard"

    def open(self) -> Any:
        """The event file, with the configuration as text."""
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(self._directory), purge_step=0)
        writer.add_text("config", "".join(f"    {line}\n" for line in to_toml(self._config).splitlines()))
        return writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One scalar each."""
        for name, value in values.items():
            self.opened.add_scalar(name, value, step)

    def finish(self) -> None:
        """Flush to disk."""
        self.opened.close()
