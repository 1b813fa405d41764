"""The results table: searches of equal cost on SmolLM2, exchange within sizes and between all layers, beside baselines.

Every run is a run directory that shares one database, so the script can be stopped and started again at any time; it
prints the table of what is finished (and writes it with --table).

    python benchmarks/long_run.py runs/long                               # 2.5 and 3 bits, three seeds; 2.25 and 4, one
    python benchmarks/long_run.py runs/long --only-table --table docs/results-bits.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evopress.config import Config, resolve
from evopress.observer import Observer
from evopress.pipeline import build, run_all
from evopress.run import start_run
from evopress.workspace import Workspace

SEEDS = {"3": (0, 1, 2), "2.5": (0, 1, 2), "2.25": (0,), "4": (0,)}
SCHEDULE = {"offspring": 32, "survivors": (8, 2, 1), "tokens_per_stage": (256, 1024, 4096)}
GENERATION = 32 * 256 + 8 * 1024 + 3 * 4096
"""Tokens of one generation: the parent joins the last stage."""


@dataclass(frozen=True)
class Job:
    """One run."""

    bits: str
    method: str
    seed: int

    def config(self, database: Path, tokens: int) -> Config:
        """Its configuration: `method` is size, any or best-of-32."""
        options: dict[str, Any] = {"exchange": "any", "mutation": "mixed"}
        if self.method == "size":
            options = {"exchange": "size", "mutation": "equal"}
        elif self.method == "best-of-32":
            options = {"strategy": "best-of", "start_candidates": 32}
        return resolve(
            "demo",
            bits=self.bits,
            database=str(database),
            seed=self.seed,
            generations=tokens // GENERATION,
            start="paper",
            calibration_tokens=32768,
            search_tokens=65536,
            heldout_tokens=16384,
            **(SCHEDULE | options),
        )

    @property
    def name(self) -> str:
        """The run directory's name."""
        return f"{self.bits}-{self.method}-{self.seed}"


def jobs() -> Iterator[Job]:
    """In the order of their interest."""
    for bits, seeds in SEEDS.items():
        for seed in seeds:
            yield Job(bits, "any", seed)
            yield Job(bits, "size", seed)
            if "." in bits:
                yield Job(bits, "best-of-32", seed)


class Printer(Observer):
    """A line a generation."""

    def batch(self, result: Any, space: Any, tokens: int) -> None:
        """Print accepted and rejected generations."""
        if result.accepted is not None and not result.replayed:
            print(f"  generation {result.batch.generation} {result.score:.4f} {tokens} tokens", flush=True)


def run(folder: Path, job: Job, tokens: int) -> None:
    """Make or continue one run; its wall time is kept across interruptions, up to the last complete one."""
    clock = folder / f"{job.name}.seconds"
    before = float(clock.read_text()) if clock.exists() else 0.0
    if (folder / job.name / "evaluation.json").exists():
        return
    print(job.name, flush=True)
    started = time.monotonic()
    try:
        run_all(job.config(folder / "database", tokens), folder / job.name, Printer())
    finally:
        clock.write_text(str(before + time.monotonic() - started))


def rows(folder: Path) -> dict[tuple[str, str], list[dict[str, float]]]:
    """(bits, method) -> one result a seed. Uniform and dp need no seed: they are the same in all runs of a budget."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for job in jobs():
        directory = folder / job.name
        if not (directory / "evaluation.json").exists():
            continue
        scores = json.loads((directory / "evaluation.json").read_text())["profiles"]
        for baseline in ("dense", "uniform", "dp"):
            found.setdefault((job.bits, baseline), [scores[baseline] | {"tokens": 0.0, "seconds": 0.0}])
        fitness = json.loads((directory / "profile.json").read_text())["fitness"]
        cost = {"tokens": fitness["tokens"], "seconds": float((folder / f"{job.name}.seconds").read_text())}
        found.setdefault((job.bits, job.method), []).append(scores["searched"] | cost)
    return found


def spread(values: list[float], digits: int) -> str:
    """Mean, and the standard deviation where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(folder: Path) -> str:
    """Markdown."""
    lines = [
        "| budget | method | seeds | bits | perplexity | KL | tokens evaluated | wall time |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (bits, method), results in rows(folder).items():
        seconds, tokens = ([result[key] for result in results] for key in ("seconds", "tokens"))
        lines.append(
            f"| {bits} | {method} | {len(results)} | {results[0]['bits']:.3f} "
            f"| {spread([result['perplexity'] for result in results], 2)} "
            f"| {spread([result['kl'] for result in results], 4)} "
            f"| {statistics.mean(tokens):,.0f} | {statistics.mean(seconds) / 60:.1f} min |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=500_000, help="search tokens a run")
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.only_table:
        first = next(jobs())
        directory = start_run(options.folder / first.name, first.config(options.folder / "database", options.tokens))
        build(Workspace(directory, Observer()))  # not in any run's wall time
        for job in jobs():
            if options.only in job.name:
                run(options.folder, job, options.tokens)
    print(table(options.folder))
    if options.table:
        options.table.write_text(table(options.folder))


if __name__ == "__main__":
    main()
