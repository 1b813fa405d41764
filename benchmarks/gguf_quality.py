"""Searched GGUF files beside llama-quantize's mixes of the same size: held-out perplexity and KL on SmolLM2.

For each mix the budget is what the mix itself takes, and the levels are the types that mixes are made of, so a search
can win by its choice alone. Every run is a run directory that shares one database, so the script can be stopped and
started again; a finished budget is a line of a file that is kept with the sources, and is not repeated.

    OMP_NUM_THREADS=1 python benchmarks/gguf_quality.py runs/gguf                     # all budgets: an hour or two
    python benchmarks/gguf_quality.py runs/gguf --mixes Q3_K_M --set heldout_tokens=4096 generations=3
    python benchmarks/gguf_quality.py runs/gguf --only-table

The mixes are our reading of llama-quantize's rules, held against its own code by scripts/check_llama_cpp.py. They are
scored as llama-quantize writes them by itself (plain), and with the importance matrices of the search's database.
"""

from __future__ import annotations

import argparse
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from run_settings import add_settings

from evopress.core.profile import Profile
from evopress.families import QuantizeGgml
from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Evaluator
from evopress.formats.gguf import plan_gguf, predicted_bytes
from evopress.levels.ggml import pack_ggml
from evopress.levels.mixes import MIXES
from evopress.models.assemble import Assembly, weight_slots
from evopress.models.weights import weight
from evopress.pipeline import build, run_all
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "gguf_quality.jsonl"
LEVELS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""With their fallbacks, all types that the mixes below Q8_0 are made of."""


class Printer(Observer):
    """A line for what happens."""

    def note(self, text: str) -> None:
        """One line."""
        print(text, flush=True)

    def batch(self, result: Any, space: Any, tokens: int) -> None:
        """One line a generation."""
        if result.accepted is not None and not result.replayed:
            print(f"  generation {result.batch.generation} {result.score:.4f} {tokens} tokens", flush=True)


def config(options: argparse.Namespace, bpw: str) -> Config:
    """Of one run: the quick preset, and what is set beside it."""
    return resolve(
        options.model,
        bpw=bpw,
        target="llamacpp",
        levels=LEVELS,
        data=options.data,
        database=str(options.folder / "database"),
        polish="none",
        **dict(options.set),
    )


def prepare(options: argparse.Namespace) -> Workspace:
    """A run whose only purpose is the database."""
    workspace = Workspace(start_run(options.folder / "base", config(options, "8")), Printer())
    build(workspace)
    return workspace


def compare(options: argparse.Namespace, base: Workspace, mix: str) -> dict[str, Any]:
    """Search at the size of a mix; the line of results."""
    family = base.family
    assert isinstance(family, QuantizeGgml)
    profile = family.mix(mix)
    if profile is None:
        raise SystemExit(f"{mix} needs types that are not among {', '.join(LEVELS)}")
    bpw = str(Fraction(family.space.cost(profile), family.space.total_weights))
    started = time.monotonic()
    run = run_all(config(options, bpw), options.folder / mix, Printer())
    found = {name: row for name, row in run.evaluation["profiles"].items() if name not in MIXES}
    with base.evaluator(base.splits.heldout, (KL(), Perplexity()), candidates=1) as evaluator:
        found["mix"] = scores(evaluator, profile)
    found["mix, plain"] = plain_scores(base, profile)
    sizes = {"mix": file_bytes(base, profile), "searched": (run.directory.export / "model.gguf").stat().st_size}
    return {
        "mix": mix,
        "model": options.model,
        "settings": dict(options.set),
        "tokens": run.evaluation["tokens"],
        "bytes": sizes,
        "profiles": found,
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
    }


def file_bytes(workspace: Workspace, profile: Profile) -> int:
    """The size of the GGUF file of a profile."""
    types = {linear.view.parameter: profile[linear.name] for linear in workspace.map.linears}
    return predicted_bytes(plan_gguf(workspace.loaded, types))


def plain_scores(workspace: Workspace, profile: Profile) -> dict[str, float]:
    """Scores of a profile whose types are made without importance, as llama-quantize does by itself."""
    linears = {linear.name: linear for linear in workspace.map.linears}

    def load(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        return pack_ggml(weight(workspace.loaded.model, linears[unit].view), level).dequantize(dtype)

    text = workspace.splits.heldout
    with Assembly(weight_slots(workspace.loaded.model, workspace.map, load)) as assembly:
        return scores(Evaluator(workspace.runner, assembly, text, (KL(), Perplexity()), seed=0), profile)


def scores(evaluator: Evaluator, profile: Profile) -> dict[str, float]:
    """KL and perplexity of a profile on all the evaluator's text."""
    found = evaluator.evaluate_all([profile])
    return {"kl": found.scores(0)[0], "perplexity": found.scores(1)[0]}


def finished(rows: Path) -> dict[str, dict[str, Any]]:
    """The lines by mix, the last of each."""
    lines = map(json.loads, rows.read_text().splitlines() if rows.exists() else ())
    return {line["mix"]: line for line in lines}


def table(rows: Path) -> str:
    """Markdown."""
    lines = ["| size of | file | profile | perplexity | KL |", "|---|---:|---|---:|---:|"]
    for mix, line in finished(rows).items():
        for name in ("mix, plain", "mix", "uniform", "dp", "searched", "dense"):
            if name in line["profiles"]:
                row, size = line["profiles"][name], line["bytes"].get(name.partition(",")[0])
                shown = name.replace("mix, plain", f"{mix}, without importance").replace("mix", mix)
                megabytes = f"{size:,} bytes" if size else ""
                lines.append(f"| {mix} | {megabytes} | {shown} | {row['perplexity']:.2f} | {row['kl']:.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--mixes", nargs="+", default=["Q2_K", "Q3_K_M", "Q4_K_M"], choices=list(MIXES))
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished runs")
    options = parser.parse_args()
    missing = [mix for mix in options.mixes if mix not in finished(options.rows)]
    if missing and not options.only_table:
        base = prepare(options)
        for mix in missing:
            line = compare(options, base, mix)
            with options.rows.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(table(options.rows))


if __name__ == "__main__":
    main()
