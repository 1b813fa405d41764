"""The paper's tables at the size of a small machine: depth, sparsity and bits on SmolLM2, every baseline beside them.

A job is one seed of one target (its search, and the baselines that draw at random), or a target's other baselines,
which are the same for all seeds and scored once. Each job is a run directory, so it can be stopped at any time. What is
finished becomes lines of a file that is kept with the sources: a job that has its lines is not repeated, also where the
run directories are gone. Jobs are claimed by a lock, so several processes can work side by side. What all that is
missing will cost is printed first.

Two texts score the profiles: held-out articles, and English of another kind (Python's own reference manual, which comes
with the interpreter). With hub access `--model`, `--data` and `--second` take any model and the paper's texts.

    python benchmarks/tables.py runs/tables                               # all targets, three seeds
    python benchmarks/tables.py runs/tables --only fraction=0.25 &        # two at once: OMP_NUM_THREADS=1 for each
    python benchmarks/tables.py runs/tables --only-table --table docs/results-tables.md
"""

from __future__ import annotations

import argparse
import json
import operator
import pydoc_data.topics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_settings import add_settings, machine
from tables_report import done, report

from evopress import pipeline
from evopress.core.files import write_text
from evopress.errors import EvopressError, RunLocked
from evopress.run.directory import locked, start_run
from evopress.run.observer import Observer
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.steps.compare import RANDOM, Found, entries, find, finished
from evopress.steps.scoring import HeldOut, score
from evopress.steps.workspace import Workspace

DEPTHS, SPARSITIES, BITS = ("0.125", "0.25", "0.375", "0.5"), ("0.5", "0.6", "0.7"), ("2.5", "3")
TARGETS = tuple(
    f"{name}={value}"
    for name, values in {"fraction": DEPTHS, "sparsity": SPARSITIES, "bits": BITS}.items()
    for value in values
)
ROWS = Path(__file__).parent / "results" / "tables.jsonl"
SIZES: dict[str, Any] = {"start_candidates": 16, "heldout_tokens": 4096}
"""What is smaller than the quick preset: candidates of best-of-N (and of the search's start), and final scores."""
SECOND_TOKENS = 4096
TOKENS_A_SECOND = 450
"""What one core of a small machine evaluates (SmolLM2, bf16); the estimate divides by it."""
PASSES, LEVELS = 4, {"bits": 6, "sparsity": 9, "depth": 2}
"""What a token costs while sensitivities are measured, in forward passes beside one for each level."""
TITLE = "Every baseline beside the search (`python benchmarks/tables.py`)"
PAUSE = 30.0
"""Seconds until jobs that other processes have are looked at again."""


@dataclass(frozen=True)
class Job:
    """One seed of a target, or, without a seed, its baselines that need none."""

    target: str
    seed: int | None

    @property
    def name(self) -> str:
        """The run directory's name."""
        return f"{self.target}-{'baselines' if self.seed is None else self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all jobs share."""

    folder: Path
    model: str
    data: str
    second: str
    preset: str
    rows: Path
    settings: dict[str, Any]

    def config(self, job: Job) -> Config:
        """A job's configuration; all jobs of a target share a database."""
        name, value = job.target.split("=")
        options = {name: value} | (SIZES if self.preset == "quick" else {})
        if name != "fraction":
            options["database"] = str(self.folder / f"database-{job.target}")
        return resolve(
            self.model, preset=self.preset, **{"data": self.data, "seed": job.seed or 0} | options | self.settings
        )


class Shared:
    """The model, loaded once for all jobs: they differ in what they do to it, and leave it dense."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._first: Workspace | None = None

    def workspace(self, job: Job) -> Workspace:
        """A job's run directory with the model."""
        config = self.setting.config(job)
        workspace = Workspace(start_run(self.setting.folder / job.name, config), Printer())
        if self._first is None:
            self._first = workspace
        workspace.loaded = self._first.loaded
        return workspace


class Printer(Observer):
    """A line for what happens."""

    def note(self, text: str) -> None:
        """One line."""
        print(f"  {text}", flush=True)


def jobs(targets: tuple[str, ...], seeds: int) -> list[Job]:
    """In the order of their interest: every target's first seed with its baselines, then the other seeds."""
    numbers = (None, *range(seeds))
    first = [Job(target, seed) for target in targets for seed in numbers[:2]]
    return first + [Job(target, seed) for seed in numbers[2:] for target in targets]


def missing(setting: Setting, wanted: list[Job]) -> list[Job]:
    """The jobs that have no lines yet."""
    known = done(setting.rows)
    return [job for job in wanted if (job.target, job.seed) not in known]


def run(job: Job, shared: Shared) -> None:
    """Search what the job asks for, score all of it on both texts, and add its lines in one piece."""
    setting = shared.setting
    with locked(setting.folder / job.name):
        if not missing(setting, [job]):  # another process was faster
            return
        print(job.name, flush=True)
        started = time.process_time()
        workspace = shared.workspace(job)
        pipeline.build(workspace)
        found, skipped = search(workspace, job)
        profiles = {name: one.profile for name, one in found.items()}
        dense = {"dense": None} if job.seed is None else {}
        first = score(workspace, dense | profiles, HeldOut())
        second = score(workspace, dense | profiles, HeldOut(setting.second, SECOND_TOKENS))
    common = {
        "model": setting.model,
        "texts": [first.text.fingerprint[:12], second.text.fingerprint[:12]],
        "job_cpu_seconds": round(time.process_time() - started),
    } | machine(workspace.device)
    costs = {name: {"search_tokens": one.tokens, "search_seconds": one.seconds} for name, one in found.items()}
    lines = [
        {"method": name, "first": first.rows[name], "second": second.rows[name]} | costs.get(name, {}) | common
        for name in first.rows
    ]
    lines += [{"method": name, "skipped": why} for name, why in skipped.items()]
    with setting.rows.open("a") as file:
        file.write("".join(json.dumps({"target": job.target, "seed": job.seed} | line) + "\n" for line in lines))


def search(workspace: Workspace, job: Job) -> tuple[dict[str, Found], dict[str, str]]:
    """What each method of the job found, and why others did not apply."""
    found: dict[str, Found] = {}
    skipped: dict[str, str] = {}
    if job.seed is not None:
        if not workspace.run.profile.exists():
            pipeline.search(workspace)
        found["searched"] = finished(workspace)
    for entry in entries(workspace):
        if (entry.name in RANDOM) == (job.seed is not None):
            try:
                found[entry.name] = find(workspace, entry, TOKENS_A_SECOND)
            except EvopressError as error:
                skipped[entry.name] = str(error)
    return found, skipped


def run_all(setting: Setting, wanted: list[Job]) -> None:
    """Say what is missing and do it; what another process is doing is left to it, and looked at again at the end."""
    shared = Shared(setting)
    if todo := missing(setting, wanted):
        blocks = shared.workspace(todo[0]).map.n_blocks
        tokens = sum(expected_tokens(setting, job, blocks) for job in todo)
        hours = tokens / TOKENS_A_SECOND / 3600
        print(f"{len(todo)} jobs, about {tokens / 1e6:.1f}M tokens: {hours:.1f} core-hours or less", flush=True)
    while todo := missing(setting, wanted):
        before = len(todo)
        for job in todo:
            try:
                run(job, shared)
            except RunLocked as error:
                print(f"  {error}", flush=True)
        if len(missing(setting, wanted)) == before:
            time.sleep(PAUSE)


def expected_tokens(setting: Setting, job: Job, blocks: int) -> int:
    """About what a job evaluates, final scores included; a pass without its dropped part counts as a whole one."""
    config = setting.config(job)
    section, application = config.search, config.compression.application
    depth = application == "depth"
    first, last = section.tokens_per_stage[0], section.tokens_per_stage[-1]
    scores = config.data.heldout_tokens + SECOND_TOKENS
    if job.seed is None and depth:
        units = 2 * blocks
        greedy = sum(units - dropped for dropped in range(round(float(config.budget.target) * units)))
        return greedy * first + (blocks + 5) * last + 8 * scores
    if job.seed is None:
        return (2 + (20 if application == "sparsity" else 0)) * last + 5 * scores
    candidates = (section.offspring, *section.survivors)
    generation = sum(map(operator.mul, candidates, section.tokens_per_stage)) + last
    generations = section.generations or 0
    start = 2 * section.start_candidates * section.start_tokens
    if section.start == "sensitivity":
        passes = PASSES + LEVELS[application]
        start += sum(section.sensitivity_tokens) * passes + (blocks * section.start_tokens if depth else 0)
    return start + generations * generation + section.start_candidates * last + 4 * scores


def manual(path: Path) -> Path:
    """The language reference as a text file, a paragraph a line."""
    if not path.exists():
        topics: dict[str, str] = pydoc_data.topics.topics
        write_text(path, "\n\n".join(topics[name] for name in sorted(topics)))
    return path


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--second", help="another text; default: Python's reference manual")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only jobs whose name contains this, such as fraction=0.25-0")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished jobs")
    parser.add_argument("--table", type=Path, help="write the tables here too")
    options = parser.parse_args()
    if not options.only_table:
        options.folder.mkdir(parents=True, exist_ok=True)
        second = options.second or str(manual(options.folder / "manual.txt"))
        common = (options.model, options.data, second, options.preset, options.rows, dict(options.set))
        setting = Setting(options.folder, *common)
        wanted = [job for job in jobs(tuple(options.targets), options.seeds) if options.only in job.name]
        run_all(setting, wanted)
    text = report(options.rows)
    print(text)
    if options.table:
        write_text(
            options.table, f"# {TITLE}\n\nMade from {options.rows.name}, which also says on which device.\n\n{text}\n"
        )


if __name__ == "__main__":
    main()
