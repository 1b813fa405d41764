"""Experiment trackers, by name: `--track tensorboard,wandb,trackio`. None is imported unless it is asked for.

A tracker is an observer that logs numbers by generation. One file each; `tracker` holds what they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from evopress.errors import ConfigError
from evopress.run.observer import Observer, Observers
from evopress.run.trackers.tracker import Tracker
from evopress.settings.config import Config

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Each is a module of this package with a class `Writer(config, directory)`, a `Tracker`."""


@contextmanager
def tracked(observer: Observer, names: Sequence[str], config: Config, directory: Path) -> Iterator[Observer]:
    """An observer that tells `observer` and the trackers of these names, which are closed at the end.

    ConfigError for an unknown name, MissingExtra for one whose package is not installed, before anything is begun.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"unknown tracker {name!r}; use {', '.join(TRACKERS)}")
    with ExitStack() as stack:
        found: list[Tracker] = []
        for name in dict.fromkeys(names):
            found.append(import_module(f"evopress.run.trackers.{name}").Writer(config, directory))
            stack.callback(found[-1].close)
        yield Observers(observer, *found) if found else observer
