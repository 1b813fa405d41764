"""The best model of so many bytes: by fewer bits, fewer sub-layers, one after the other, or both at once?

A budget is what a uniform number of bits takes, scales and zeros counted, or half of that. Under each there are
searches of bits alone, of depth alone (all that stays is dense), of both together, and the two sequences: drop with one
search, then search bits for what stays; or search bits for a larger budget, then search what to drop of that until it
fits. Sequences have several splits: the share of the weights that goes. Every search has the same number of tokens,
and the first one of a sequence half as many on top. All have the same database of levels.

A job is a run directory, so it can be stopped at any time; what is finished becomes a line of a file that is kept with
the sources and is not repeated. Scored are held-out articles and English of another kind (Python's reference manual).

    OMP_NUM_THREADS=1 python benchmarks/joint.py runs/joint                # three seeds; 5 to 10 minutes for each line
    python benchmarks/joint.py runs/blocks --set granularity=block --rows runs/blocks.jsonl
    python benchmarks/joint.py runs/joint --bits 3 --seeds 1 --only 3-joint
    python benchmarks/joint.py runs/joint --only-table
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from run_settings import add_settings, machine
from tables import Printer, manual

from evopress import pipeline
from evopress.core.profile import DROP
from evopress.core.space import SearchSpace
from evopress.database.build import stored_bits
from evopress.database.methods import Quantization
from evopress.errors import BudgetError, ProfileError
from evopress.families.joint import Joint
from evopress.fitness.sensitivity import Sensitivity
from evopress.run.directory import locked, start_run
from evopress.run.records import read_json, read_profile, seconds_of, timed
from evopress.search import Evolution, Journal, Stopper, run_search
from evopress.search.preselect import Preselect
from evopress.search.presets import make_mutation
from evopress.search.racing import STANDARD
from evopress.search.stages import Schedule, validate_schedule
from evopress.search.starts.sensitivity import sensitivity_starts
from evopress.search.surrogate import Surrogate, effect_table
from evopress.settings.resolve import resolve
from evopress.settings.sections import QuantizeSection
from evopress.steps.scoring import HeldOut, score
from evopress.steps.search import save
from evopress.steps.strategies import warm_up
from evopress.steps.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "joint.jsonl"
BITS = ("3", "2.5", "4")
SPLITS = (0.05, 0.15)
"""Shares of the weights that sequences drop beside what has to go for the lowest level to fit."""
TOKENS = 250_000
SECOND_TOKENS = 4096
SIZES: dict[str, Any] = {
    **{"heldout_tokens": 4096, "sensitivity_tokens": (512, 2048), "start_tokens": 1024},
    **{"propagate": "3", "polish": "none"},  # one database for all budgets, and no more learning than it has
}
DENSE_BITS = 16
FIRST, SECOND = "drop-then-quantize", "quantize-then-drop"


@dataclass(frozen=True)
class Job:
    """One way to meet a budget, given as the bits of a uniform model of its size; `share` is dropped by sequences."""

    bits: str
    half: bool
    method: str
    seed: int
    share: float = 0.0

    @property
    def budget(self) -> str:
        """What the budget is called: `3`, or `3h` for half of it."""
        return self.bits + "h" * self.half

    @property
    def name(self) -> str:
        """The job's directory, and its line's name."""
        way = f"{self.method}-{self.share:.2f}" if self.share else self.method
        return f"{self.budget}-{way}-{self.seed}"


@dataclass
class Bench:
    """What all jobs share; the model is loaded once."""

    folder: Path
    options: argparse.Namespace
    first: Workspace | None = None

    def workspace(self, name: str, seed: int, tokens: int, **own: Any) -> Workspace:
        """The run directory `name`; `own` are the settings that make it what it is."""
        common = SIZES | {"data": self.options.data, "database": str(self.folder / "database")}
        settings = common | {"token_limit": tokens} | dict(self.options.set)
        if "fraction" in own:
            settings = {name: value for name, value in settings.items() if name not in QuantizeSection.model_fields}
        elif "use" not in own:
            settings.pop("granularity", None)
        config = resolve(self.options.model, seed=seed, **settings, **own)
        workspace = Workspace(start_run(self.folder / name, config), Printer())
        self.first = self.first or workspace
        workspace.loaded = self.first.loaded
        return workspace

    @cached_property
    def stored(self) -> dict[float, float]:
        """Bits a weight of each level, with scales and zeros, by those of its codes."""
        method = self.probe.family.method
        assert isinstance(method, Quantization)
        return {float(level): own for level, own in zip(method.grids, stored_bits(self.probe.map, method), strict=True)}

    @cached_property
    def probe(self) -> Workspace:
        """A run that never begins, to ask before there is a budget."""
        return self.workspace("probe", 0, TOKENS, bits=3, use=("bits", "depth"))

    def dropping(self, share: float) -> dict[str, Any]:
        """The budget of a search of depth that drops a share of the weights, in the parts that joint searches drop."""
        own = self.probe.config.dropping
        assert own is not None
        return {"fraction": f"{share:.4f}", "counts": "parameters", "exchange": "any", "granularity": own.granularity}

    def bpw(self, job: Job) -> float:
        """The job's budget; bits between two levels lie between what these take."""
        bits, stored = float(job.bits), self.stored
        below, above = max(own for own in stored if own <= bits), min(own for own in stored if own >= bits)
        part = (bits - below) / (above - below) if above > below else 0.0
        return (stored[below] + part * (stored[above] - stored[below])) / (1 + job.half)

    def jobs(self) -> Iterator[Job]:
        """The first seed at every budget, at half of them, then the other seeds."""
        for seed in range(self.options.seeds):
            for half in (False, True):
                for bits in self.options.bits:
                    yield from self.under(Job(bits, half, "joint", seed))

    def under(self, joint: Job) -> Iterator[Job]:
        """All ways to meet one budget."""
        if not joint.half and joint.seed == 0 and float(joint.bits) in self.stored:
            yield replace(joint, method="uniform")
        yield from (replace(joint, method="bits"), joint)
        least = max(0.0, 1 - self.bpw(joint) / min(self.stored.values()))
        for share in self.options.splits:
            yield from (replace(joint, method=method, share=round(least + share, 2)) for method in (SECOND, FIRST))
        yield replace(joint, method="depth")

    def run(self, job: Job) -> dict[str, Any]:
        """Search and score; the line of the job."""
        print(job.name, flush=True)
        line = {"name": job.name, "budget": job.budget, "method": job.method, "share": job.share, "seed": job.seed}
        line |= {"model": self.options.model, "bpw_limit": self.bpw(job)}
        try:
            workspace, *before = self.found(job)
        except (BudgetError, ProfileError) as error:
            return line | {"skipped": str(error)}
        profile, second = read_profile(workspace.run.profile), self.options.second
        second = HeldOut(second or str(manual(self.folder / "manual.txt")), SECOND_TOKENS)
        spent = [spent_by(own) for own in (workspace, *before)]
        return {
            **line,
            "first": score(workspace, {"found": profile}, HeldOut()).rows["found"],
            "second": score(workspace, {"found": profile}, second).rows["found"],
            "search_tokens": sum(tokens for tokens, _ in spent),
            "search_seconds": round(sum(seconds for _, seconds in spent)),
            **machine(workspace.device),
        }

    def found(self, job: Job) -> list[Workspace]:
        """The run that holds the job's profile, behind it the one that it went on from."""
        tokens, bpw = self.options.tokens, self.bpw(job)
        if job.method == FIRST:
            before = self.workspace(
                f"drop-{job.share:.2f}-{job.seed}", job.seed, tokens // 2, **self.dropping(job.share)
            )
        elif job.method == SECOND:
            before = self.workspace(f"{job.name}-first", job.seed, tokens // 2, bpw=exact(bpw / (1 - job.share)))
        elif job.method == "depth":
            return [searched(self.workspace(job.name, job.seed, tokens, **self.dropping(1 - bpw / DENSE_BITS)))]
        elif job.method == "joint":
            return [searched(self.joint(job))]
        else:
            return [searched(self.workspace(job.name, job.seed, tokens, bpw=exact(bpw)), job.method == "uniform")]
        return [self.after(searched(before), job), before]

    def joint(self, job: Job) -> Workspace:
        """A run of both families under the job's budget."""
        return self.workspace(job.name, job.seed, self.options.tokens, bpw=exact(self.bpw(job)), use=("bits", "depth"))

    def after(self, before: Workspace, job: Job) -> Workspace:
        """The second search of a sequence: what the first one decided stays as it is.

        It knows what the joint search knows: the same sensitivities, which are measured once.
        """
        workspace = self.joint(job)
        if workspace.run.profile.exists():
            return workspace
        pipeline.build(workspace)
        for file in (self.folder / replace(job, method="joint", share=0.0).name).glob("sensitivity-*.json"):
            shutil.copy(file, workspace.run.path)
        with timed(workspace.run.timing, "search"):
            known, text, section = warm_up(workspace, job.seed), workspace.splits.search, workspace.config.search
            strategy = self.second_search(workspace, known.rounds[-1], decided(workspace, before))
            stopper = Stopper(section.limits, tokens=known.tokens)
            header = {"job": job.name} | workspace.fingerprints
            with (
                Journal(workspace.run.journal, seed=job.seed, fingerprint=header) as journal,
                workspace.evaluator(text, (workspace.measure,), section.offspring) as evaluator,
            ):
                evaluator.calls = journal.batches
                profile = run_search(strategy, evaluator, journal, stopper=stopper)
        save(workspace, profile, strategy.score, stopper.tokens, stopper.reason or strategy.stopped)
        return workspace

    def second_search(self, workspace: Workspace, known: Sensitivity, space: SearchSpace) -> Evolution:
        """The run's own search, in a smaller space."""
        section = workspace.config.search
        stages = validate_schedule(section.offspring, section.survivors, section.tokens_per_stage)
        surrogate = Surrogate(space, effect_table(space, known.slope, known.curvature))
        return Evolution(
            space,
            random.Random(section.seed),
            Schedule(
                generations=workspace.generations,
                offspring=section.offspring,
                stages=stages,
                start_tokens=section.start_tokens,
            ),
            mutate=make_mutation(section.mutation, section.band_share, workspace.family.moves),
            start=sensitivity_starts(space, known.slope, known.curvature, workspace.family.gammas),
            preselect=Preselect(surrogate, pool=section.preselect),
            race=STANDARD if section.race else None,
        )


def exact(bpw: float) -> str:
    """The budget, rounded up so that the uniform profile is not above it."""
    return f"{bpw + 5e-7:.6f}"


def searched(workspace: Workspace, uniform: bool = False) -> Workspace:
    """With its profile."""
    if not workspace.run.profile.exists():
        pipeline.build(workspace)
        if uniform:
            save(workspace, workspace.space.uniform(), 0.0, 0, "nothing was searched")
        else:
            pipeline.search(workspace)
    return workspace


def spent_by(workspace: Workspace) -> tuple[int, float]:
    """Tokens and seconds of a search."""
    tokens = read_json(workspace.run.profile, "search")["fitness"]["tokens"]
    return tokens, seconds_of(workspace.run.timing, "search")


def decided(workspace: Workspace, before: Workspace) -> SearchSpace:
    """What is left of the space of levels and drops after one of them was searched."""
    space, levels = workspace.space, dict(read_profile(before.run.profile).items())
    assert isinstance(workspace.family, Joint)
    if before.config.families == ("bits",):
        kept = [
            replace(unit, levels=tuple(level for level in unit.levels if level.name in (DROP, levels[unit.name])))
            for unit in space.units
        ]
        return replace(space, units=tuple(kept))
    gone = {name for part, members in workspace.family.members.items() if levels[part] == DROP for name in members}
    units = [
        replace(unit, levels=unit.levels[:1] if unit.name in gone else unit.levels[floor:])
        for unit, floor in zip(space.units, space.floors, strict=True)
    ]
    return replace(space, units=tuple(units), bundles=())


def read_rows(rows: Path) -> list[dict[str, Any]]:
    """All finished lines."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds; a sequence has the split whose mean KL on held-out articles is least."""
    rows = [
        "| budget | search | split | KL | perplexity | KL, second text | MB | attn + mlp dropped | tokens | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for budget, method in dict.fromkeys((line["budget"], line["method"]) for line in lines):
        own = [line for line in lines if (line["budget"], line["method"]) == (budget, method) and "first" in line]
        splits = [[line for line in own if line["share"] == share] for share in {line["share"]: 0 for line in own}]
        if not splits:
            rows.append(f"| {budget} | {method} | | cannot fit | | | | | | |")
            continue
        best = min(splits, key=lambda split: mean(line["first"]["kl"] for line in split))
        rows.append(f"| {budget} | {method} | {best[0]['share'] or ''} | {' | '.join(figures(best))} |")
    return "\n".join(rows)


def figures(lines: list[dict[str, Any]]) -> list[str]:
    """The means of lines that differ in their seed."""
    first = [line["first"] for line in lines]
    # a dropped sub-layer is no bytes, also where a checkpoint without levels would hold it as zeros
    sizes = [min(row["bytes"], row.get("parameters", row["bytes"]) * 2) for row in first]
    drops = [mean(row.get(f"dropped_{kind}", 0) for row in first) for kind in ("attn", "mlp")]
    return [
        f"{mean(row['kl'] for row in first):.4f}",
        f"{mean(row['perplexity'] for row in first):.2f}",
        f"{mean(line['second']['kl'] for line in lines):.4f}",
        f"{mean(sizes) / 1e6:.2f}",
        f"{drops[0]:.3g} + {drops[1]:.3g}",
        f"{mean(line['search_tokens'] for line in lines):,.0f}",
        f"{mean(line['search_seconds'] for line in lines):.0f}",
    ]


def main() -> None:
    """Do what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--second", help="another text; default: Python's reference manual")
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--splits", nargs="+", type=float, default=list(SPLITS))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only jobs whose name begins so, such as 3-joint or 3h-")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished jobs")
    options = parser.parse_args()
    bench = Bench(options.folder, options)
    for job in () if options.only_table else bench.jobs():
        if job.name.startswith(options.only) and job.name not in [line["name"] for line in read_rows(options.rows)]:
            with locked(options.folder / "locks" / job.name):
                line = bench.run(job)
            with options.rows.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(table(read_rows(options.rows)))


if __name__ == "__main__":
    main()
