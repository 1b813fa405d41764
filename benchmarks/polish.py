"""What learning the levels of a profile is worth: uniform and searched, unpolished, by blocks, end to end, and both.

A job is one profile (uniform, searched with a seed, or a searched one that was varied) and one way to polish it. Each
is a run directory, so it can be stopped at any time and goes on at its next block; what is finished becomes a line of a
file that is kept with the sources and is not repeated. `both` takes over the blocks of the job `blocks`. CPU seconds
are those of all threads. Scored are held-out articles, English of another kind (Python's reference manual), and the
beginning of what was learned from.

    python benchmarks/polish.py runs/polish                                   # each way at 3, 2 and 4 bits
    python benchmarks/polish.py runs/polish --jobs tokens                     # learned from 16k, 65k and 131k tokens
    python benchmarks/polish.py runs/polish --jobs steps                      # 1,024, 512 and 256 tokens a step
    python benchmarks/polish.py runs/polish --jobs rounds                     # does a second round gain?
    python benchmarks/polish.py runs/polish --jobs rank                       # do twenty profiles keep their order?
    python benchmarks/polish.py runs/polish --jobs time                       # more search or more polish
    python benchmarks/polish.py runs/polish --jobs sparsity
    python benchmarks/polish.py runs/polish --jobs depth                      # blocks dropped, and what heals
    python benchmarks/polish.py runs/polish --only 3-uniform --set polish_epochs=2
    python benchmarks/polish.py runs/polish --only-table
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from run_settings import add_settings, machine
from tables import manual

from evopress import pipeline
from evopress.core.polish_record import PolishRecord
from evopress.core.profile import Profile
from evopress.fitness.divergence import KL
from evopress.run.directory import locked, start_run
from evopress.run.observer import Observer
from evopress.run.records import polish_record, read_json, read_profile
from evopress.search.moves.adaptive import several
from evopress.search.moves.mutation import free_switches
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.steps.scoring import HeldOut, score
from evopress.steps.search import save
from evopress.steps.workspace import Workspace
from evopress.text.tokens import Tokens

ROWS = Path(__file__).parent / "results" / "polish.jsonl"
PEERS = Path(__file__).parent / "results" / "peers.jsonl"
SECOND_TOKENS = LEARNED_TOKENS = 4096
MODES = ("none", "blocks", "model", "both")
VARIED = 20  # profiles whose order is looked at
SWITCHES = 12  # times a varied profile is mutated
DROP = "drop"  # what a budget of depth is called after


@dataclass(frozen=True)
class Job:
    """A budget and a kind of profile, such as `3-uniform`, `3-searched-0` or `drop0.25-searched-0`, and its polish."""

    profile: str
    mode: str
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def budget(self) -> dict[str, str]:
        """Bits, sparsity where it is below 1, or what is dropped."""
        target = self.profile.partition("-")[0]
        if target.startswith(DROP):
            return {"fraction": target.removeprefix(DROP)}
        return {"sparsity" if float(target) < 1 else "bits": target}

    @property
    def kind(self) -> str:
        """`uniform`, `searched`, `longer` (a search of three times the generations) or `varied`."""
        return self.profile.split("-")[1]

    @property
    def number(self) -> int:
        """The seed, or the number of a varied profile."""
        return int(self.profile.split("-")[2]) if self.profile.count("-") > 1 else 0

    @property
    def name(self) -> str:
        """The job's own directory, and its line's name."""
        return "-".join(filter(None, (self.profile, self.mode, self.label)))


def modes(bits: list[str], seeds: int) -> Iterator[Job]:
    """Uniform first; further seeds at 3 bits alone, and no search at 2 bits, the least level."""
    for own in bits:
        searched = [f"{own}-searched-{seed}" for seed in range({"2": 0, "3": seeds}.get(own, 1))]
        yield from (Job(profile, mode) for profile in (f"{own}-uniform", *searched) for mode in MODES)


def tokens(bits: list[str], seeds: int) -> Iterator[Job]:
    """Uniform levels learned from more and more text, each token once."""
    for count in (16384, 65536, 131072):
        yield Job(f"{bits[0]}-uniform", "blocks", f"{count}-tokens", {"polish_tokens": count})


def steps(bits: list[str], seeds: int) -> Iterator[Job]:
    """The same text in smaller and smaller steps."""
    for kind in ("uniform", "searched-0"):
        for batch in (1024, 512, 256):
            settings = {"polish_tokens": 32768, "polish_batch": batch}
            yield Job(f"{bits[0]}-{kind}", "blocks", f"{batch}-a-step", settings)


def rounds(bits: list[str], seeds: int) -> Iterator[Job]:
    """One round, and another search and polish on what it came to."""
    for count in (1, 2):
        yield Job(f"{bits[0]}-searched-0", "blocks", f"{count}-rounds", {"rounds": count})


def rank(bits: list[str], seeds: int) -> Iterator[Job]:
    """Twenty profiles of one budget, before and after they are polished briefly."""
    for number in range(VARIED):
        yield Job(f"{bits[0]}-varied-{number}", "none")
        yield Job(f"{bits[0]}-varied-{number}", "blocks", "briefly", {"polish_tokens": 8192})


def time_spent(bits: list[str], seeds: int) -> Iterator[Job]:
    """Search then polish, more search, more polish."""
    yield Job(f"{bits[0]}-searched-0", "none")
    yield Job(f"{bits[0]}-searched-0", "blocks")
    yield Job(f"{bits[0]}-longer-0", "none")
    yield Job(f"{bits[0]}-longer-0", "blocks")
    yield Job(f"{bits[0]}-searched-0", "blocks", "131072-tokens", {"polish_tokens": 131072})


def sparsity(bits: list[str], seeds: int) -> Iterator[Job]:
    """Half and 60 % of the weights left out."""
    for target in ("0.5", "0.6"):
        for kind in ("uniform", "searched-0"):
            yield from (Job(f"{target}-{kind}", mode) for mode in ("none", "both"))


def depth(bits: list[str], seeds: int) -> Iterator[Job]:
    """An eighth, a quarter and three eighths of the blocks dropped."""
    for fraction in ("0.125", "0.25", "0.375"):
        yield from (Job(f"{DROP}{fraction}-searched-0", mode) for mode in ("none", "blocks", "both"))


JOBS = {
    "modes": modes,
    "tokens": tokens,
    "steps": steps,
    "rounds": rounds,
    "rank": rank,
    "time": time_spent,
    "sparsity": sparsity,
    "depth": depth,
}


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
        [(counts, target)] = job.budget.items()
        settings = {"seed": job.number, "polish": job.mode, "data": self.options.data, **job.settings}
        if counts != "fraction":
            settings["database"] = str(self.folder / f"database-{target}")
        settings |= dict(self.options.set) | {counts: target}
        if job.kind == "longer":
            settings["generations"] = 3 * resolve(self.options.model, **settings).search.generations
        config: Config = resolve(self.options.model, **settings)
        workspace = Workspace(start_run(self.folder / name, config), Printer())
        self.first = self.first or workspace
        workspace.loaded = self.first.loaded
        return workspace

    def profile(self, job: Job) -> Path:
        """The profile of a job, searched if need be."""
        workspace = self.workspace(Job(job.profile, "none"), job.profile)
        if not workspace.run.profile.exists():
            pipeline.build(workspace)
            if job.kind == "uniform":
                save(workspace, workspace.space.uniform(), 0.0, 0, "nothing was searched")
            elif job.kind == "varied":
                save(workspace, self.varied(job, workspace), 0.0, 0, "varied by chance")
            else:
                pipeline.search(workspace)
        return workspace.run.profile

    def varied(self, job: Job, workspace: Workspace) -> Profile:
        """Seed 0's searched profile after random switches."""
        target = job.profile.partition("-")[0]
        space, rng = workspace.space, Random(job.number)
        found = read_profile(self.profile(Job(f"{target}-searched-0", "none")))
        changed = several(free_switches, SWITCHES)(space, space.encode(found), rng)
        return found if changed is None else space.decode(changed)

    def run(self, job: Job) -> dict[str, Any]:
        """Polish and score; the line of the job."""
        print(job.name, flush=True)
        workspace = self.workspace(job, job.name)
        shutil.copy(self.profile(job), workspace.run.profile)
        pipeline.build(workspace)
        spent = self.take_blocks(job, workspace)
        started = time.process_time()
        if job.mode != "none":
            pipeline.polish(workspace)
        spent += time.process_time() - started
        record = polish_record(workspace.run) if job.mode != "none" else None
        return {
            **{"name": job.name, "profile": job.profile, "mode": job.mode, "label": job.label},
            **{"settings": workspace.config.polish.model_dump(), "cpu_seconds": round(spent)},
            **self.scores(workspace, record),
            "result": record and record.result,
            "watched": dict(record.watched) if record else {},
            "search_seconds": self.search_seconds(job),
            **machine(workspace.device),
        }

    def take_blocks(self, job: Job, workspace: Workspace) -> float:
        """For `both`, what the job `blocks` has learned already; the seconds that it took."""
        before = self.folder / f"{job.profile}-blocks"
        line = next((line for line in done(self.options.rows) if line["name"] == before.name), None)
        if job.mode != "both" or line is None or workspace.run.polished.exists():
            return 0.0
        for phase in ("sweep", "blocks"):
            if (before / "polished" / phase).exists():
                shutil.copytree(before / "polished" / phase, workspace.run.polished / phase)
        return float(line["cpu_seconds"])

    def scores(self, workspace: Workspace, record: PolishRecord | None) -> dict[str, Any]:
        """KL and perplexity on both texts, and the KL on the beginning of what was learned from."""
        row = "polished" if record and record.result else "searched"
        profile = read_profile(workspace.run.profile)
        second = HeldOut(self.options.second or str(manual(self.folder / "manual.txt")), SECOND_TOKENS)
        texts = {
            name: score(workspace, {row: profile}, where).rows[row]
            for name, where in (("first", HeldOut()), ("second", second))
        }
        learned = workspace.text_to_learn(LEARNED_TOKENS)
        return {
            **{name: {key: own[key] for key in ("kl", "perplexity", "bytes")} for name, own in texts.items()},
            "learned": divergence(workspace, learned, profile, polished=row == "polished"),
        }

    def search_seconds(self, job: Job) -> float:
        """Those of the job's search, by the wall clock."""
        file = self.folder / job.profile / "timing.json"
        return float(read_json(file, "search").get("search", 0.0)) if file.exists() else 0.0


def divergence(workspace: Workspace, text: Tokens, profile: Profile, polished: bool) -> float:
    """The KL of a profile on a text."""
    with workspace.evaluator(text, (KL(),), 1, polished=profile if polished else None) as evaluator:
        return float(evaluator.evaluate_all([profile]).scores(0)[0])


def done(rows: Path) -> list[dict[str, Any]]:
    """All finished lines."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def table(lines: list[dict[str, Any]], model: str) -> str:
    """Markdown: a line for each profile and way to polish it, and AutoRound's beside those of uniform bits.

    CPU minutes are those of the polish, of lines that were made on a CPU.
    """
    budgets = {line["profile"] for line in lines}
    rows = [
        "| profile | polish | KL | perplexity | KL, second text | KL, learned from | CPU minutes | counts |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for line in lines:
        way = " ".join(filter(None, (line["mode"], line["label"])))
        minutes = f"{line['cpu_seconds'] / 60:.1f}" if line["device"] == "CPU" and line["result"] else ""
        rows.append(
            f"| {line['profile']} | {way} | {line['first']['kl']:.4f} | {line['first']['perplexity']:.2f} "
            f"| {line['second']['kl']:.4f} | {line['learned']:.4f} | {minutes} | {line['result'] or 'the database'} |"
        )
    for peer in done(PEERS):
        own = peer["peer"].startswith("autoround") and peer["model"] == model
        if own and f"{peer['bits']}-uniform" in budgets:
            quality = f"{peer['kl']:.4f} | {peer['perplexity']:.2f}"
            rows.append(
                f"| {peer['bits']}-uniform | {peer['peer']} | {quality} | | | {peer['cpu_seconds'] / 60:.1f} | |"
            )
    return "\n".join(rows)


def correlation(lines: list[dict[str, Any]]) -> str:
    """Spearman's rank correlation of the varied profiles before and after."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        if "-varied-" in line["profile"]:
            found.setdefault(line["profile"], {})[line["mode"]] = line["first"]["kl"]
    pairs = [own for own in found.values() if own.keys() == {"none", "blocks"}]
    if len(pairs) < 3:
        return ""
    orders = [sorted(range(len(pairs)), key=lambda at, mode=mode: pairs[at][mode]) for mode in ("none", "blocks")]
    places = [{at: place for place, at in enumerate(order)} for order in orders]
    squares = sum((places[0][at] - places[1][at]) ** 2 for at in range(len(pairs)))
    return f"\nrank correlation of {len(pairs)} profiles: {1 - 6 * squares / (len(pairs) * (len(pairs) ** 2 - 1)):.2f}"


def main() -> None:
    """Do what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--jobs", choices=tuple(JOBS), default="modes")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--second", help="another text; default: Python's reference manual")
    parser.add_argument("--bits", nargs="+", default=["3", "2", "4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only jobs whose name begins so, such as 3-uniform-blocks")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished jobs")
    options = parser.parse_args()
    wanted = [job for job in JOBS[options.jobs](options.bits, options.seeds) if job.name.startswith(options.only)]
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder, options)
    for job in [] if options.only_table else wanted:
        if job.name not in [line["name"] for line in done(options.rows)]:
            with locked(options.folder / job.name):
                line = bench.run(job)
            with options.rows.open("a") as file:
                file.write(json.dumps(line) + "\n")
    names = {job.name for job in wanted}
    lines = [line for line in done(options.rows) if line["name"] in names]
    print(table(lines, options.model) + correlation(lines))


if __name__ == "__main__":
    main()
