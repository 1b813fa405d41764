"""What learning the levels of a profile is worth: uniform and searched, unpolished, by blocks, end to end, and both.

A job is one kind of profile (uniform, or searched with one seed) at one bit-width, and one way to polish it. Each is a
run directory, so it can be stopped at any time and goes on at its next block; what is finished becomes a line of a file
that is kept with the sources and is not repeated. `both` takes over the blocks of the job `blocks`. CPU seconds are
those of all threads. Two texts score: held-out articles, and English of another kind (Python's reference manual).

    python benchmarks/polish.py runs/polish                                  # 2, 3 and 4 bits
    python benchmarks/polish.py runs/polish --only 3-uniform --set polish_epochs=8
    python benchmarks/polish.py runs/polish --only-table
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_settings import add_settings, machine
from tables import manual

from evopress import pipeline
from evopress.config import Config
from evopress.database.polished import read_record
from evopress.observer import Observer
from evopress.records import read_json, read_profile, write_profile
from evopress.resolve import resolve
from evopress.run import locked, start_run
from evopress.scoring import HeldOut, score
from evopress.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "polish.jsonl"
SECOND_TOKENS = 4096
MODES = ("none", "blocks", "model", "both")


@dataclass(frozen=True)
class Job:
    """A bit-width, a profile (uniform where there is no seed), and how it is polished."""

    bits: str
    seed: int | None
    mode: str

    @property
    def profile(self) -> str:
        """The directory of the run that has the profile."""
        return f"{self.bits}-uniform" if self.seed is None else f"{self.bits}-searched-{self.seed}"

    @property
    def name(self) -> str:
        """The job's own directory, and its line's name."""
        return f"{self.profile}-{self.mode}"


class Printer(Observer):
    """A line for what happens, and for every fifth block."""

    def note(self, text: str) -> None:
        """One line."""
        print(f"  {text}", flush=True)

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        """One line at times."""
        if phase == "polish" and done % 5 == 0:
            print(f"  {phase} {done:g} of {total:g}: {detail}", flush=True)


@dataclass
class Bench:
    """What all jobs share; the model is loaded once."""

    folder: Path
    options: argparse.Namespace
    first: Workspace | None = None

    def workspace(self, job: Job, name: str) -> Workspace:
        """The run directory `name`, set up for the job."""
        settings = {"database": str(self.folder / "database"), "seed": job.seed or 0, "polish": job.mode}
        settings |= {"data": self.options.data} | dict(self.options.set)
        config: Config = resolve(self.options.model, bits=job.bits, **settings)
        workspace = Workspace(start_run(self.folder / name, config), Printer())
        self.first = self.first or workspace
        workspace.loaded = self.first.loaded
        return workspace

    def profile(self, job: Job) -> Path:
        """The profile of a job, searched if need be."""
        workspace = self.workspace(Job(job.bits, job.seed, "none"), job.profile)
        if not workspace.run.profile.exists():
            pipeline.build(workspace)
            if job.seed is None:
                write_profile(workspace, workspace.space.uniform(), 0.0, 0, "nothing was searched")
            else:
                pipeline.search(workspace)
        return workspace.run.profile

    def run(self, job: Job) -> dict[str, Any]:
        """Polish, score on both texts; the line of the job."""
        print(job.name, flush=True)
        workspace = self.workspace(job, job.name)
        shutil.copy(self.profile(job), workspace.run.profile)
        pipeline.build(workspace)
        spent = 0.0
        before = self.folder / f"{job.profile}-blocks" / "polished" / "blocks"
        if job.mode == "both" and before.exists() and not workspace.run.polished.exists():
            shutil.copytree(before, workspace.run.polished / "blocks")
            spent = next(
                (line["cpu_seconds"] for line in done(self.options.rows) if line["name"] == str(before.parts[-3])), 0.0
            )
        started = time.process_time()
        if job.mode != "none":
            pipeline.polish(workspace)
        spent += time.process_time() - started
        record = read_record(workspace.run.polished) if job.mode != "none" else None
        scored = read_profile(workspace.run.profile)
        row = "polished" if record and record.result else "searched"
        second = HeldOut(self.options.second or str(manual(self.folder / "manual.txt")), SECOND_TOKENS)
        texts = {
            name: score(workspace, {row: scored}, where).rows[row]
            for name, where in (("first", HeldOut()), ("second", second))
        }
        polished = workspace.config.polish.model_dump()
        return {
            **{"name": job.name, "bits": job.bits, "seed": job.seed, "mode": job.mode, "settings": polished},
            **{name: {key: own[key] for key in ("kl", "perplexity", "bytes")} for name, own in texts.items()},
            "cpu_seconds": round(spent),
            "result": record and record.result,
            "watched": dict(record.watched) if record else {},
            "search_seconds": self._search_seconds(job),
            **machine(workspace.device),
        }

    def _search_seconds(self, job: Job) -> float:
        file = self.folder / job.profile / "timing.json"
        return float(read_json(file, "search").get("search", 0.0)) if file.exists() else 0.0


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Uniform first; further seeds at 3 bits alone."""
    for bits in options.bits:
        for seed in (None, *range(options.seeds if bits == "3" else 1)):
            yield from (Job(bits, seed, mode) for mode in MODES)


def done(rows: Path) -> list[dict[str, Any]]:
    """All finished lines."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def table(rows: Path) -> str:
    """Markdown: a line for each profile and way to polish it."""
    lines = [
        "| profile | polish | KL | perplexity | KL, second text | CPU minutes | counts |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for line in done(rows):
        profile = line["name"].removesuffix(f"-{line['mode']}")
        first, second = line["first"], line["second"]
        lines.append(
            f"| {profile} | {line['mode']} | {first['kl']:.4f} | {first['perplexity']:.2f} | {second['kl']:.4f} "
            f"| {line['cpu_seconds'] / 60:.1f} | {line['result'] or 'the database'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--second", help="another text; default: Python's reference manual")
    parser.add_argument("--bits", nargs="+", default=["3", "2", "4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only jobs whose name begins so, such as 3-uniform-blocks")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished jobs")
    options = parser.parse_args()
    if not options.only_table:
        options.folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options.folder, options)
        for job in jobs(options):
            if job.name.startswith(options.only) and job.name not in [line["name"] for line in done(options.rows)]:
                with locked(options.folder / job.name):
                    line = bench.run(job)
                with options.rows.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(table(options.rows))


if __name__ == "__main__":
    main()
