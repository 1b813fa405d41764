"""What makes levels good: the KL of uniform 2, 3 and 4 bits on held-out text, part by part.

Every job makes the levels of one width in a temporary directory, scores the uniform profile and becomes a line of a
file that is kept with the sources; a job that has its line is not repeated. CPU seconds are those of the build, its
forward passes included; `forward` are those of one pass of the calibration text through all blocks, measured beside it.

    python benchmarks/levels.py                          # each part alone, each left out, all together
    python benchmarks/levels.py --only all --seeds 3     # another calibration text for each seed
    python benchmarks/levels.py --jobs tokens --bits 3   # all parts, on 4k to 262k tokens
    python benchmarks/levels.py --jobs shares --bits 3   # how much of the mismatch to correct
    python benchmarks/levels.py --jobs steadiness        # one and two threads, fp32 and bf16 passes
    python benchmarks/levels.py --only-table
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from run_settings import add_settings, machine

from evopress import pipeline
from evopress.models.batches import batches
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.scoring import HeldOut, score
from evopress.steps.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "levels.jsonl"
BITS = ("2", "3", "4")
PARTS: dict[str, dict[str, Any]] = {
    "scales": {"scales": "searched"},
    "order": {"act_order": True},
    "mismatch": {"mismatch": 0.25},
    "refine": {"refine": 1},
}
BARE: dict[str, Any] = {"scales": "range", "act_order": False, "mismatch": 0.0, "refine": 0}
ALL = {name: value for part in PARTS.values() for name, value in part.items()}


@dataclass(frozen=True)
class Job:
    """One way to make levels, from the calibration text of a seed."""

    name: str
    seed: int
    settings: dict[str, Any] = field(compare=False)
    threads: int | None = None


def parts(seeds: int) -> list[Job]:
    """All together, the paper's levels, each part left out, each alone; and all on dense inputs, and two rounds."""
    ways = {"all": ALL, "paper's": BARE}
    ways |= {f"without {name}": ALL | {key: BARE[key] for key in part} for name, part in PARTS.items()}
    ways |= {f"only {name}": BARE | part for name, part in PARTS.items()}
    ways |= {"dense inputs": ALL | {"propagate": "dense"}, "two rounds": ALL | {"refine": 2}}
    return [Job(name, seed, settings) for seed in range(seeds) for name, settings in ways.items()]


def tokens(seeds: int) -> list[Job]:
    """All parts on more and more text."""
    counts = [4096, 16384, 65536, 262144]
    return [Job(f"{n} tokens", seed, ALL | {"calibration_tokens": n}) for seed in range(seeds) for n in counts]


def shares(seeds: int) -> list[Job]:
    """All parts with more and less of the mismatch corrected."""
    ways = (0.0, 0.15, 0.25, 0.35, 0.5, 1.0)
    return [Job(f"mismatch {share}", seed, ALL | {"mismatch": share}) for seed in range(seeds) for share in ways]


def steadiness(seeds: int) -> list[Job]:
    """The same levels by other threads and in another precision of the passes, before and now."""
    return [
        Job(f"{name}, {threads} threads, {dtype}", seed, settings | {"dtype": dtype}, threads)
        for seed in range(seeds)
        for name, settings in (("all", ALL), ("paper's", BARE))
        for threads in (1, 2)
        for dtype in ("bfloat16", "float32")
    ]


JOBS = {"parts": parts, "tokens": tokens, "shares": shares, "steadiness": steadiness}


def run(job: Job, bits: str, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Build, score, and tell."""
    torch.set_num_threads(job.threads or torch.get_num_threads())
    options = {"levels": (bits,), "text_seed": job.seed} | job.settings | settings
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(start_run(Path(folder) / "run", resolve(model, bits=bits, **options)), Observer())
        forward = forward_seconds(workspace)
        started = time.process_time()
        pipeline.build(workspace)
        seconds = time.process_time() - started
        scored = score(workspace, {"uniform": workspace.space.uniform()}, HeldOut()).rows["uniform"]
    return {
        "job": job.name,
        "bits": bits,
        "seed": job.seed,
        "kl": scored["kl"],
        "perplexity": scored["perplexity"],
        "build_cpu_seconds": round(seconds, 3),
        "forward_cpu_seconds": round(forward, 3),
        "calibration_tokens": workspace.config.data.calibration_tokens,
        "heldout_tokens": workspace.config.data.heldout_tokens,
        "model": model,
        "dtype": str(workspace.loaded.model.dtype).removeprefix("torch."),
    } | machine(workspace.device)


def forward_seconds(workspace: Workspace) -> float:
    """CPU seconds of one pass of the calibration text through all blocks, in the batches that the build uses."""
    runner = workspace.runner
    sequences = workspace.splits.calibration.sequences
    started = time.process_time()
    for ids in batches(sequences, workspace.batch_tokens):
        hidden, contexts = runner.begin(ids.to(runner.device))
        for block in range(runner.map.n_blocks):
            hidden = runner.block(block, hidden, contexts)
    return time.process_time() - started


def report(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each job: KL of each width, mean and standard deviation over seeds, and the CPU time of the builds."""
    widths = sorted({line["bits"] for line in lines})
    rows = [
        "| levels | " + " | ".join(f"{bits} bits" for bits in widths) + " | seeds | build / one pass |",
        "|---|" + "---:|" * (len(widths) + 2),
    ]
    for name in dict.fromkeys(line["job"] for line in lines):
        own = [line for line in lines if line["job"] == name]
        cells = [_spread([line["kl"] for line in own if line["bits"] == bits]) for bits in widths]
        seeds = len({line["seed"] for line in own})
        cost = statistics.mean(line["build_cpu_seconds"] / line["forward_cpu_seconds"] for line in own)
        rows.append(f"| {name} | {' | '.join(cells)} | {seeds} | {cost:.1f} |")
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Do what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    parser.add_argument("--jobs", choices=tuple(JOBS), default="parts")
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished jobs")
    options = parser.parse_args()
    wanted = [
        (job, bits) for job in JOBS[options.jobs](options.seeds) if options.only in job.name for bits in options.bits
    ]
    done = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    known = {(line["job"], line["bits"], line["seed"], line["model"]) for line in done}
    for job, bits in [] if options.only_table else wanted:
        if (job.name, bits, job.seed, options.model) not in known:
            done.append(run(job, bits, options.model, dict(options.set)))
            print(json.dumps(done[-1]), flush=True)
            with options.rows.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    names = {job.name for job, _ in wanted}
    print(report([line for line in done if line["job"] in names and line["bits"] in options.bits]))


if __name__ == "__main__":
    main()
