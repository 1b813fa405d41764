"""Tasks of the LM Evaluation Harness on a model that is in memory; the only module that knows that library.

It comes with the extra `tasks` and is imported here alone, when tasks are asked for: its import takes seconds, and so
does the list of its thousands of tasks, which is therefore read only for names that no local file defines.
"""

from __future__ import annotations

import copy
import difflib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evopress.errors import ConfigError, DataError, MissingExtra, TaskError, first_line
from evopress.models.bos import adds_bos

SEEDS = {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""Those that the harness's own command line has by default."""

BOOTSTRAP = 1000
"""Resamples for standard errors of metrics that are no mean; those of accuracies are computed by a formula."""

Progress = Callable[[int, int], None]
Results = dict[str, dict[str, float]]
"""task -> metric -> value; `acc_stderr` is the standard error of `acc`."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How tasks are run: examples in the prompt (None: as the task says), documents of each task (None: all), requests
    in one forward pass, and a directory of task files beside the harness's own.
    """

    fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 1
    path: Path | None = None

    def record(self) -> dict[str, Any]:
        """What a result keeps of them."""
        from importlib.metadata import version

        return {
            "fewshot": self.fewshot,
            "limit": self.limit,
            "batch_size": self.batch_size,
            "path": str(self.path) if self.path else None,
            "seeds": SEEDS,
            "harness": version("lm_eval"),
        }


class Harness:
    """Tasks that are loaded once, data included, and run on one model after the other, each time alike."""

    def __init__(self, names: Sequence[str], settings: TaskSettings) -> None:
        """Find and load the tasks, with their data, from the cache, the hub or local files.

        Raises:
            MissingExtra: the harness is not installed.
            ConfigError: the directory of task files does not exist, or no task is named.
            TaskError: a task is unknown (the message names similar ones) or its file is wrong.
            DataError: the data of a task cannot be read.
        """
        if find_spec("lm_eval") is None:
            raise MissingExtra("--tasks needs lm_eval, which is not installed: pip install 'evopress[tasks]'")
        if settings.path is not None and not settings.path.is_dir():
            raise ConfigError(f"--task-path {settings.path} is no directory; give one that holds .yaml files of tasks")
        if not names:
            raise ConfigError("no task is named; give --tasks names with commas between, such as arc_easy,winogrande")
        self._settings = settings
        with _quiet():
            manager = _find(names, settings.path)
            loaded = [_load(manager, name) for name in names]
        self._tasks = {key: task for one in loaded for key, task in one["tasks"].items()}
        groups = {key: group for one in loaded for key, group in one.get("groups", {}).items()}
        children = {key: members for one in loaded for key, members in one.get("group_map", {}).items()}
        self._loaded = {"tasks": self._tasks, "groups": groups, "group_map": children}

    def run(self, model: Any, tokenizer: Any, bos: bool, progress: Progress) -> Results:
        """The results of all tasks, and of groups of them, on a model; TaskError when a task cannot be run.

        `bos` says whether prompts begin with the BOS token, as `add_bos_token` does for the harness's command line.
        """
        import numpy
        import torch
        from lm_eval.evaluator import evaluate

        random.seed(SEEDS["python"])
        numpy.random.seed(SEEDS["numpy"])
        torch.manual_seed(SEEDS["torch"])
        for task in self._tasks.values():
            _set_fewshot(task, self._settings.fewshot)
        with _quiet():
            try:
                found = evaluate(
                    lm=_wrapped(model, tokenizer, bos, self._settings.batch_size, progress),
                    task_dict=self._loaded,
                    limit=self._settings.limit,
                    bootstrap_iters=BOOTSTRAP,
                    log_samples=False,
                )
            except Exception as error:  # tasks are templates and code of anybody's, and may raise anything
                raise TaskError(f"{', '.join(self._tasks)} cannot be run: {first_line(error)}") from error
        every = {**found["results"], **found.get("groups", {})}
        return {name: _metrics(values) for name, values in every.items()}


def _find(names: Sequence[str], path: Path | None) -> Any:
    """The harness's index of the local task files, with all of its own tasks if a name is not among them."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=path, include_defaults=False) if path else None
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=path)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=4)
            where = f" and none of the files in {path} defines it" if path else ""
            raise TaskError(f"unknown task {name!r}{where}; {_hint(near)}")
    return manager


def _hint(near: Sequence[str]) -> str:
    return f"similar ones are {', '.join(near)}" if near else "'lm_eval ls tasks' lists the harness's own"


def _load(manager: Any, name: str) -> Any:
    """One task, or all tasks of a group, with their data."""
    from datasets.exceptions import DatasetsError

    try:
        return manager.load([name])
    except (OSError, DatasetsError) as error:
        raise DataError(f"the data of task {name} cannot be read: {first_line(error)}") from error
    except Exception as error:  # a task file can be wrong in any way
        raise TaskError(f"task {name} cannot be loaded: {first_line(error)}") from error


def _set_fewshot(task: Any, asked: int | None) -> None:
    """As the harness's command line does: a task that says 0 is left alone, and examples are drawn anew each time."""
    own = task.get_config("num_fewshot")
    if asked is not None and own != 0:
        task.set_config(key="num_fewshot", value=asked)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=SEEDS["fewshot"])


def _wrapped(model: Any, tokenizer: Any, bos: bool, batch_size: int, progress: Progress) -> Any:
    """The model as the harness wants it, which tells of its progress by `progress` and draws no bars."""
    from lm_eval.models.huggingface import HFLM

    class Told(HFLM):  # type: ignore[misc]
        done = total = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.total += len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.total += len(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def _model_call(self, inps: Any, *arguments: Any, **options: Any) -> Any:
            logits = super()._model_call(inps, *arguments, **options)
            self.done = min(self.done + len(inps), self.total)
            progress(self.done, self.total)
            return logits

    own = _adding(tokenizer) if bos else tokenizer
    return Told(pretrained=model, tokenizer=own, add_bos_token=bos, batch_size=batch_size)


def _adding(tokenizer: Any) -> Any:
    """The tokenizer, if it adds BOS, which is all that the harness can ask of it; else a copy that does."""
    if adds_bos(tokenizer):
        return tokenizer
    own = copy.deepcopy(tokenizer)
    own.add_bos_token = True
    if not adds_bos(own):
        raise TaskError(f"a {type(own).__name__} cannot be made to add BOS; give a run with --bos no")
    return own


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """`acc,none` -> `acc`; numbers only, and the filter's name stays where there is one."""
    found = {}
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if comma and isinstance(value, int | float):
            found[metric if kind == "none" else f"{metric} ({kind})"] = float(value)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither the harness nor `datasets` prints log lines or bars."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
