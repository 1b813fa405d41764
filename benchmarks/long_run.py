"""The results table: searches of equal cost on SmolLM2, exchange within sizes and between all layers, beside baselines.

Every run is a run directory, and runs of one budget share a database, so the script can be stopped and started again at
any time. What is finished becomes a line of a file that is kept with the sources: a run that has its line is not
repeated, also where the run directories are gone.

    python benchmarks/long_run.py runs/long                               # 2.5 and 3 bits, three seeds; 2.25 and 4, one
    python benchmarks/long_run.py runs/long --only 3- &                   # two at once: OMP_NUM_THREADS=1 for each
    python benchmarks/long_run.py runs/long --only-table
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from run_settings import add_settings

from evopress.pipeline import build, run_all
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

SEEDS = {"3": (0, 1, 2), "2.5": (0, 1, 2), "2.25": (0,), "4": (0,)}
ROWS = Path(__file__).parent / "results" / "long_run.jsonl"
DATA = {"calibration_tokens": 32768, "search_tokens": 65536, "heldout_tokens": 16384}
SCHEDULE = {"offspring": 32, "survivors": (8, 2, 1), "tokens_per_stage": (256, 1024, 4096)}
ALGORITHM_1 = {"start": "uniform", "preselect": 1, "race": False}
"""Nothing is left to `auto`, so that methods differ in what they name and in nothing else."""
GENERATION = 32 * 256 + 8 * 1024 + 3 * 4096
"""Tokens of one generation: the parent joins the last stage."""
WARMUP = 3 * GENERATION
"""Tokens that the sensitivities take, a little less in truth: the start `sensitivity` pays for them in generations."""


METHODS: dict[str, dict[str, Any]] = {
    "any": {"exchange": "any", "mutation": "mixed"},
    "size": {"exchange": "size", "mutation": "equal"},
    "best-of-32": {"strategy": "best-of", "start_candidates": 32},
    "sensitivity": {"exchange": "any", "mutation": "mixed", "start": "sensitivity"},
}
"""What is not the paper's start and moves. What evopress does by itself is in efficiency.py."""


@dataclass(frozen=True)
class Job:
    """One run."""

    bits: str
    method: str
    seed: int

    def config(self, model: str, database: Path, tokens: int, settings: dict[str, Any]) -> Config:
        """Its configuration: `method` is one of METHODS; `settings` are for all jobs and come last."""
        options = METHODS[self.method]
        if options.get("start") == "sensitivity":
            tokens -= WARMUP
        own = {"database": str(database), "seed": self.seed, "polish": "none"}
        own |= {"generations": tokens // GENERATION}
        return resolve(model, bits=self.bits, **DATA | ALGORITHM_1 | SCHEDULE | own | options | settings)

    @property
    def name(self) -> str:
        """The run directory's name."""
        return f"{self.bits}-{self.method}-{self.seed}"


def jobs() -> Iterator[Job]:
    """In the order of their interest."""
    for bits, seeds in SEEDS.items():
        for seed in seeds:
            for method in METHODS:
                if method != "best-of-32" or "." in bits:  # where uniform is a level, nothing is better than best-of
                    yield Job(bits, method, seed)


class Printer(Observer):
    """A line a generation."""

    def batch(self, result: Any, space: Any, tokens: int) -> None:
        """Print accepted and rejected generations."""
        if result.accepted is not None and not result.replayed:
            print(f"  generation {result.batch.generation} {result.score:.4f} {tokens} tokens", flush=True)


def run(folder: Path, job: Job, config: Config, rows: Path) -> None:
    """Make or continue one run and add its line; times are kept across interruptions, but for that of a killed part."""
    clock, directory = folder / f"{job.name}.seconds", folder / job.name
    wall, cpu = map(float, clock.read_text().split()) if clock.exists() else (0.0, 0.0)
    print(job.name, flush=True)
    wall, cpu = wall - time.monotonic(), cpu - time.process_time()
    try:
        run_all(config, directory, Printer())
    finally:
        wall, cpu = wall + time.monotonic(), cpu + time.process_time()
        clock.write_text(f"{wall} {cpu}")
    row = asdict(job) | {
        "profiles": json.loads((directory / "evaluation.json").read_text())["profiles"],
        "tokens": json.loads((directory / "profile.json").read_text())["fitness"]["tokens"],
        "seconds": round(wall),
        "cpu_seconds": round(cpu),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")


def finished(rows: Path) -> dict[Job, dict[str, Any]]:
    """The lines of the finished runs."""
    lines = map(json.loads, rows.read_text().splitlines() if rows.exists() else ())
    return {Job(line["bits"], line["method"], line["seed"]): line for line in lines}


def results(rows: Path) -> dict[tuple[str, str], list[dict[str, float]]]:
    """(bits, method) -> one result a seed. Uniform and dp need no seed: they are the same in all runs of a budget."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    lines = finished(rows)
    for job in filter(lines.__contains__, jobs()):
        scores, line = lines[job]["profiles"], lines[job]
        for baseline in ("dense", "uniform", "dp"):
            free = {"tokens": 0.0, "seconds": 0.0, "cpu_seconds": 0.0}
            found.setdefault((job.bits, baseline), [scores[baseline] | free])
        cost = {key: line[key] for key in ("tokens", "seconds", "cpu_seconds")}
        found.setdefault((job.bits, job.method), []).append(scores["searched"] | cost)
    return found


def spread(values: list[float], digits: int) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(rows: Path) -> str:
    """Markdown."""
    lines = [
        "| budget | method | seeds | bits | perplexity | KL | tokens evaluated | wall time | CPU time |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (bits, method), found in results(rows).items():
        means = {key: statistics.mean(result[key] for result in found) for key in ("tokens", "seconds", "cpu_seconds")}
        lines.append(
            f"| {bits} | {method} | {len(found)} | {found[0]['bits']:.3f} "
            f"| {spread([result['perplexity'] for result in found], 2)} "
            f"| {spread([result['kl'] for result in found], 4)} "
            f"| {means['tokens']:,.0f} | {means['seconds'] / 60:.1f} min | {means['cpu_seconds'] / 60:.1f} min |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--tokens", type=int, default=500_000, help="search tokens a run")
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished runs")
    options = parser.parse_args()
    if not options.only_table:
        options.folder.mkdir(parents=True, exist_ok=True)
        missing = [job for job in jobs() if options.only in job.name and job not in finished(options.rows)]
        for job in missing:
            database = options.folder / f"database-{job.bits}"
            config = job.config(options.model, database, options.tokens, dict(options.set))
            if not database.exists():  # it is not in any run's times
                build(Workspace(start_run(options.folder / job.name, config), Observer()))
            run(options.folder, job, config, options.rows)
    print(table(options.rows))


if __name__ == "__main__":
    main()
