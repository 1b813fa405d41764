"""One generation of a search on a run that has a database: where the time goes, and what sharing prefixes saves.

Asserted first: scores with and without sharing are the same bits. Then timed, in one run:

* the share of the wall time that is spent in the model's own forward passes (goal: at least 80 %);
* block passes of an average offspring relative to a full forward pass (goal: at most 3/4).

    python benchmarks/bench_search.py runs/demo
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evopress.core.profile import Profile
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import Evaluator
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.search.moves.mutation import equal_switches
from evopress.search.planned import ranked
from evopress.search.presets import make_mutation
from evopress.steps.workspace import Workspace


def offspring(workspace: Workspace, count: int, mutation: str) -> list[Profile]:
    """A parent in the middle of a search (uniform after 100 accepted switches) and its different offspring."""
    space, rng = workspace.space, random.Random(0)
    parent = space.encode(space.uniform())
    for _ in range(100):
        parent = equal_switches(space, parent, rng) or parent
    children: set[tuple[int, ...]] = set()
    mutate = make_mutation(mutation, workspace.config.search.band_share)
    while len(children) < count:
        child = mutate(space, parent, rng)
        if child is not None:
            children.add(child)
    return [space.decode(child) for child in [parent, *sorted(children)]]


class Stopwatch:
    """Seconds spent inside wrapped methods of a runner."""

    def __init__(self, runner: Any) -> None:
        self.seconds = 0.0
        for name in ("begin", "block", "finish", "head", "scaled"):
            setattr(runner, name, self._timed(getattr(runner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def generation(
    evaluator: Evaluator, profiles: list[Profile], survivors: Sequence[int], tokens: Sequence[int]
) -> list[float]:
    """Seconds of each stage of one generation; the first profile is the parent, scores select."""
    seconds = []
    parent, candidates = profiles[0], profiles[1:]
    for number, (kept, drawn) in enumerate(zip(survivors, tokens, strict=True), start=1):
        candidates = [parent, *candidates] if number == len(tokens) else candidates
        started = time.perf_counter()
        scores = evaluator(candidates, drawn)
        seconds.append(time.perf_counter() - started)
        candidates = [candidates[i] for i in ranked(scores)[:kept]]
    return seconds


def passes_of_an_offspring(evaluator: Evaluator, profiles: list[Profile]) -> float:
    """Block passes that the average offspring (all but the first profile) adds, relative to all blocks."""
    evaluator.share, evaluator.work.passes = True, 0
    evaluator(profiles, 16)
    blocks = evaluator.runner.map.n_blocks
    return (evaluator.work.passes - blocks) / (len(profiles) - 1) / blocks


def main() -> None:
    """Parse, assert, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mutation", default="equal", help="equal is the paper's")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    workspace = Workspace(read_run(options.run), Observer())
    config = workspace.config.search
    profiles = offspring(workspace, config.offspring, options.mutation)
    text = workspace.splits.search
    with workspace.evaluator(text, (KL(),), len(profiles)) as evaluator:
        tokens = config.tokens_per_stage[0]
        shared = evaluator(profiles, tokens)
        evaluator.calls, evaluator.share = 0, False
        assert shared == evaluator(profiles, tokens), "sharing changed a score"
        evaluator.teacher.compute(range(len(text.sequences)))
        share = passes_of_an_offspring(evaluator, offspring(workspace, 128, options.mutation))
        schedule = config.survivors, config.tokens_per_stage
        generation(evaluator, profiles, *schedule)  # every level is resident after this
        watch = Stopwatch(workspace.runner)
        ours = theirs = forward = 0.0
        evaluator.work.tokens = 0
        for _ in range(options.repeats):  # in turns, because machines change their speed
            evaluator.share, before = True, watch.seconds
            ours += sum(generation(evaluator, profiles, *schedule))
            forward += watch.seconds - before
            evaluator.share = False
            theirs += sum(generation(evaluator, profiles, *schedule))
    print(f"machine: {torch.get_num_threads()} threads, {workspace.loaded.model.dtype}, torch {torch.__version__}")
    print(f"schedule: {config.offspring} offspring, survivors {config.survivors}, tokens {config.tokens_per_stage}\n")
    print("| measured | value | goal |")
    print("|---|---:|---:|")
    print(f"| wall time inside forward passes | {forward / ours:.1%} | 80 % |")
    print(f"| block passes of an offspring beyond its parent's / full forward | {share:.3f} | 0.75 |")
    print(f"| wall time with sharing / without | {ours / theirs:.3f} | |")
    print(f"| seconds a generation | {ours / options.repeats:.1f} | |")
    print(f"| evaluated tokens a second | {evaluator.work.tokens / (ours + theirs):.0f} | |")


if __name__ == "__main__":
    main()
