"""What benchmarks/efficiency.py runs: tasks, methods, and the order of their runs, made of settings alone."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evopress.search.automatic import automatic
from evopress.search.presets import PRESETS, ApplicationName
from evopress.settings.config import Config
from evopress.settings.resolve import resolve

TASKS: dict[str, dict[str, Any]] = {
    "bits-3": {"bits": "3"},
    "sparsity-0.6": {"sparsity": "0.6"},
    "bits-2.5": {"bits": "2.5"},
    "depth-0.25": {"fraction": "0.25"},
}
SEEDS = {"bits-3": (0, 1, 2), "sparsity-0.6": (0, 1, 2), "bits-2.5": (0,), "depth-0.25": (0,)}
EXCHANGE = {"bits": "size", "sparsity": "any", "depth": "role"}
"""The paper's rule for each application."""
ALGORITHM_1: dict[str, Any] = {"start": "uniform", "mutation": "equal", "preselect": 1, "race": False}
PAPER = ALGORITHM_1 | {"offspring": 32, "survivors": (8, 2, 1), "tokens_per_stage": (256, 1024, 4096)}
"""Algorithm 1 with a schedule of this model's size."""
METHODS: dict[str, dict[str, Any]] = {
    "paper": PAPER | {"start_tokens": 256},  # random starts, where there are any, cost as much as offspring
    "auto": {},
    "only start": PAPER | {"start": "sensitivity"},
    "only coarse": PAPER | {"start": "coarse"},
    "only moves": PAPER | {"mutation": "adaptive"},
    "only preselect": PAPER | {"preselect": 8},
    "only race": PAPER | {"race": True},
    "without start": {"start": "knapsack"},
    "with single moves": {"mutation": "free"},
    "with adaptive moves": {"mutation": "adaptive"},
    "with bands": {"mutation": "mixed"},
    "without preselect": {"preselect": 1},
    "without race": {"race": False},
}
"""What differs from the quick preset, which is `auto` in everything."""
SCHEDULE = " preset"
"""What the method of a job with a published schedule is called after the preset's name."""
MOST_DEPTH_GENERATIONS = 120
"""More than k (n - k) / 1.5 for any k of 26 units or for a quarter of SmolLM2's 30: limits the tokens of depth."""
DATA = {"calibration_tokens": 32768, "search_tokens": 65536, "heldout_tokens": 8192}


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    method: str
    seed: int
    tokens: int

    @property
    def name(self) -> str:
        """The run directory's name."""
        return f"{self.task} {self.method} {self.seed} {self.tokens}".replace(" ", "-")

    @property
    def application(self) -> ApplicationName:
        """bits, sparsity or depth."""
        return next(name for name in PRESETS if name == self.task.partition("-")[0])

    def config(self, model: str, database: Path, options: dict[str, Any]) -> Config:
        """Its configuration; `options` are for all jobs and come last."""
        given = METHODS[self.method] if self.method in METHODS else published(self.method, self.application)
        exchange = {"exchange": EXCHANGE[self.application]} if "offspring" in given else {}
        shared = {} if self.application == "depth" else {"database": str(database)}
        settings = DATA | exchange | shared | given | {"token_limit": self.tokens, "seed": self.seed} | options
        if self.application == "depth":
            settings.pop("calibration_tokens", None)
        return resolve(model, **TASKS[self.task], **settings)


def published(method: str, application: ApplicationName) -> dict[str, Any]:
    """Algorithm 1 with the schedule of a preset, which the method is called after."""
    preset = PRESETS[application][method.removesuffix(SCHEDULE)]
    own = {name: getattr(preset, name) for name in ("generations", "offspring", "survivors", "start_candidates")}
    start = {"start_tokens": preset.start_tokens} if preset.start_tokens else {}
    return ALGORITHM_1 | own | start | {"tokens_per_stage": preset.tokens}


def jobs(paper_tokens: int, our_tokens: int, ablation: str | None, seeds: int) -> Iterator[Job]:
    """In the order of their interest; an ablation has the tokens of `auto` for all and repeats nothing."""
    if ablation:
        chosen = automatic(ablation.partition("-")[0], 4096).items()
        other = [name for name, given in METHODS.items() if not given or not given.items() <= chosen]
        yield from (Job(ablation, method, seed, our_tokens) for seed in SEEDS[ablation][:seeds] for method in other)
        return
    for seed in range(seeds):
        for task in (task for task in TASKS if seed in SEEDS[task]):
            yield Job(task, "auto", seed, our_tokens)
            yield Job(task, "paper", seed, paper_tokens)


def scheduled(preset: str) -> Iterator[Job]:
    """The first seed of each task with all generations of a published schedule, and `auto` with a fifth of its tokens.

    Depth drops k of the n blocks' attentions and MLPs in k (n - k) / 1.5 generations, at most n^2 / 6.
    """
    for task in TASKS:
        job = Job(task, preset + SCHEDULE, 0, 0)
        schedule = PRESETS[job.application][preset]
        candidates = (schedule.offspring, *schedule.survivors)
        generation = sum(map(operator.mul, candidates, schedule.tokens)) + schedule.tokens[-1]
        tokens = generation * (schedule.generations or MOST_DEPTH_GENERATIONS)
        yield replace(job, tokens=tokens)
        yield Job(task, "auto", 0, tokens // 5)
