"""How many tokens a search needs: Algorithm 1 beside what `auto` does, each part alone and left out, on SmolLM2.

Every run is a run directory; runs of one task share a database, and those of one seed what was measured before the
search (its tokens count for each). A finished run becomes a line of a file that is kept with the sources,
with its whole curve: tokens so far, and the held-out KL of the parent at that moment. So the script can be stopped and
started again at any time, on several days, and two of it can run at once (a run that another process has is left to
it, OMP_NUM_THREADS=1 for each).

    python benchmarks/efficiency.py runs/efficiency --plan             # what is missing and what it will take
    python benchmarks/efficiency.py runs/efficiency --only bits-3      # jobs whose name contains this
    python benchmarks/efficiency.py runs/efficiency --ablation         # each part alone and left out
    python benchmarks/efficiency.py runs/efficiency --schedule paper   # a published schedule, and auto on a fifth of it
    python benchmarks/efficiency.py runs/efficiency --only-table [--figure docs/figures/efficiency.svg]

Tokens are those that went through a whole model, everything counted: candidates, the warm start with its backward
passes, and the dense model on each sequence that was drawn for the first time. Held-out scores are not counted: they
draw the curve and decide nothing. The two methods have the same database, texts and seed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficiency_jobs import DATA, TASKS, Job, jobs, scheduled
from efficiency_tables import draw, report
from run_settings import add_settings, machine

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import RunLocked
from evopress.fitness import draws
from evopress.fitness.divergence import KL
from evopress.pipeline import build, search
from evopress.run.directory import locked, start_run
from evopress.run.observer import Observer
from evopress.search.types import BatchResult
from evopress.steps.strategies import warm_up
from evopress.steps.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "efficiency.jsonl"
MARKS = tuple(round(30_000 * 1.25**step) for step in range(40))
"""Tokens at which a curve has a point, 0.03 to 180 million, beside its start and its end."""


class Course(Observer):
    """Remembers the parent after each generation and the tokens until then, and prints a line for it."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        self.points: list[tuple[int, int, Profile]] = []
        self.before: tuple[tuple[int, Profile], ...] = ()
        self.workspace = workspace
        self._batches = 0
        self._drawn: set[int] = set()
        self._teacher = 0

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def batch(self, result: BatchResult, space: SearchSpace, tokens: int) -> None:
        assert self.workspace is not None
        batch, text, config = result.batch, self.workspace.splits.search, self.workspace.config.search
        if batch.part is None:
            pieces = draws.minibatch(text, self._batches, batch.tokens, config.seed)
        else:
            pieces = draws.part(text, batch.part, batch.tokens, config.seed)
        self._batches += 1
        fresh = {piece.sequence for piece in pieces} - self._drawn
        self._drawn |= fresh
        self._teacher += sum(len(text.sequences[i]) for i in fresh)
        if result.accepted is not None:
            total = tokens + self._teacher + len(self.before) * config.start_tokens  # the rounds count their teacher
            self.points.append((total, batch.generation, result.best))
            if not result.replayed:
                print(f"  generation {batch.generation} {result.score:.4f} {total} tokens", flush=True)

    def at_marks(self) -> list[tuple[int, int, Profile]]:
        """What came before the start, the start, the last generation before each mark, and the end."""
        kept = [self.points[0], self.points[-1], *((tokens, 0, profile) for tokens, profile in self.before)]
        kept += [max(p for p in self.points if p[0] <= mark) for mark in MARKS if self.points[0][0] <= mark]
        return sorted(set(kept), key=lambda point: point[:2])


def run(folder: Path, job: Job, model: str, options: dict[str, Any], rows: Path) -> None:
    """Make or continue one run and add its line."""
    database = folder / f"database-{job.task}"
    directory = start_run(folder / job.name, job.config(model, database, options))
    workspace = Workspace(directory, course := Course())
    course.workspace = workspace
    with waited(folder / f"build-{job.task}.lock"):
        build(workspace)
    share_measurements(sorted(folder.glob(f"{job.task}-*-{job.seed}-*")), directory.path)
    started, cpu = time.monotonic(), time.process_time()
    course.before = before_the_start(workspace)
    search(workspace)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    row = asdict(job) | {
        "curve": curve(workspace, course),
        "references": score(workspace, list(workspace.family.references.values())),
        "names": list(workspace.family.references),
        "total": course.points[-1][0],
        "seconds": round(seconds),  # of the last part, where the run was interrupted
        "cpu_seconds": round(cpu),
        "model": model,
        "search": workspace.config.search.model_dump(mode="json"),
    }
    row |= machine(workspace.device)
    with waited(rows), rows.open("a") as file:
        if job not in finished(rows):
            file.write(json.dumps(row) + "\n")


def curve(workspace: Workspace, course: Course) -> list[dict[str, float]]:
    """The marks' tokens and generations with the held-out KL of the parents."""
    points = course.at_marks()
    scores = score(workspace, [profile for _, _, profile in points])
    return [
        {"tokens": tokens, "generation": generation, "kl": kl}
        for (tokens, generation, _), kl in zip(points, scores, strict=True)
    ]


def score(workspace: Workspace, profiles: list[Profile]) -> list[float]:
    """Held-out KL of each, equal ones scored once."""
    different = list(dict.fromkeys(profiles))
    with workspace.evaluator(workspace.splits.heldout, (KL(),), len(different)) as evaluator:
        known = dict(zip(different, evaluator.evaluate_all(different).scores(), strict=True))
    return [known[profile] for profile in profiles]


def share_measurements(runs: Iterable[Path], own: Path) -> None:
    """Take over the sensitivities that other runs have; where they are not of what a search asks for, it measures."""
    for file in (file for run in runs for file in run.glob("sensitivity-*.json")):
        if not (own / file.name).exists():
            os.link(file, own / file.name)


def before_the_start(workspace: Workspace) -> tuple[tuple[int, Profile], ...]:
    """What the warm start came to on the way, with the tokens until then, the dense model's too.

    What it measures is kept in the run directory, so the search does not measure it again.
    """
    section = workspace.config.search
    best = warm_up(workspace, section.seed).best
    return tuple((tokens + number * section.start_tokens, profile) for number, (tokens, profile) in enumerate(best, 1))


@contextmanager
def waited(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for who has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def finished(rows: Path) -> dict[Job, dict[str, Any]]:
    """The lines of the finished runs."""
    lines = map(json.loads, rows.read_text().splitlines() if rows.exists() else ())
    return {Job(line["task"], line["method"], line["seed"], line["tokens"]): line for line in lines}


def plan(missing: list[Job], speed: float) -> str:
    """What is missing and how long it will take."""
    tokens = sum(job.tokens + 4 * DATA["heldout_tokens"] for job in missing)  # most of a curve's parents share blocks
    hours = tokens / speed / 3600
    return f"{len(missing)} runs, {tokens / 1e6:.2f} million tokens: about {hours:.1f} h at {speed:g} tokens a second"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--paper-tokens", type=int, default=800_000, help="search tokens of Algorithm 1")
    parser.add_argument("--our-tokens", type=int, default=400_000, help="search tokens of all else")
    parser.add_argument("--ablation", nargs="?", const="bits-3", choices=list(TASKS), help="each part on this task")
    parser.add_argument("--schedule", choices=["paper", "super-fast"], help="a published schedule, in full")
    parser.add_argument("--seeds", type=int, default=3, help="at most so many of a task's seeds")
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    add_settings(parser)
    parser.add_argument("--speed", type=float, default=450.0, help="tokens a second, for the estimate")
    parser.add_argument("--plan", action="store_true", help="print the estimate and stop")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--figure", type=Path, help="draw the curves; needs matplotlib")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished runs")
    options = parser.parse_args()
    wanted = jobs(options.paper_tokens, options.our_tokens, options.ablation, options.seeds)
    if options.schedule:
        wanted = scheduled(options.schedule)
    missing = [job for job in wanted if options.only in job.name and job not in finished(options.rows)]
    print(plan(missing, options.speed), flush=True)
    if options.plan:
        return
    for job in [] if options.only_table else missing:
        try:
            with locked(options.folder / job.name):
                print(job.name, flush=True)
                if job not in finished(options.rows):
                    run(options.folder, job, options.model, dict(options.set), options.rows)
        except RunLocked:
            print(f"{job.name} is run by another process", flush=True)
    print(report(list(finished(options.rows).values())))
    if options.figure:
        draw(list(finished(options.rows).values()), options.figure)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
