"""Searched compressed-tensors checkpoints of SmolLM2 beside uniform ones of 3 and 4 bits, at the same bytes of files.

Each search has the size of a uniform checkpoint as its budget (--size). Then another process loads the export with
plain transformers: its logits must be the searched model's, bit for bit, and its perplexity that of the evaluation.

    python benchmarks/packed_quality.py runs/packed                 # writes benchmarks/results/packed_quality_*.md
    python benchmarks/packed_quality.py runs/packed --only-table
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from run_settings import add_settings

from evopress.formats.formats import FORMATS
from evopress.pipeline import build, run_all
from evopress.run.directory import read_run, start_run
from evopress.run.observer import Observer
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

UNIFORM = ("3", "4")
LEVELS = (2, 3, 4, 5, 6)
SHORT: dict[str, Any] = {
    "calibration_tokens": 4096,
    "sensitivity_tokens": (2048,),
    "start_tokens": 1024,
    "generations": 1,
    "heldout_tokens": 4096,
}
"""Less than the quick preset's, so that both searches together take minutes."""
RESULT = Path(__file__).parent / "results" / "packed_quality_2-core-cpu_2026-11.md"
CHECK = Path(__file__).parents[1] / "scripts" / "check_transformers.py"


def config(options: argparse.Namespace, **budget: Any) -> Config:
    """One run; all share a database."""
    database = str(options.directory / "database")
    about = {"target": "transformers", "levels": LEVELS, "propagate": "3", "database": database, "polish": "none"}
    return resolve(options.model, **about | SHORT | dict(options.set), **budget)


def uniform_size(workspace: Workspace, bits: str) -> int:
    """What a budget must be that a uniform checkpoint just meets."""
    costs = FORMATS["compressed-tensors"].costs(workspace.source)
    return costs.constant + sum(levels[bits] for levels in costs.levels.values())


def search(options: argparse.Namespace) -> None:
    """Build the database, then search at each size; what is finished is not repeated."""
    first = Workspace(start_run(options.directory / "database-run", config(options, bits=3)), Observer())
    build(first)
    for bits in UNIFORM:
        out = options.directory / f"at-{bits}-bits"
        run_all(config(options, size=uniform_size(first, bits)), out, Observer())
        subprocess.run([sys.executable, CHECK, out], check=True)


def table(directory: Path) -> str:
    """The two runs as Markdown."""
    lines = [
        "# Compressed-tensors checkpoints of SmolLM2-135M at equal bytes",
        "",
        "`python benchmarks/packed_quality.py runs/packed`: 2 CPU cores, bf16, symmetric grids of 64 weights, levels 2",
        "to 6 bits, 4,096 calibration and held-out tokens, one generation after the measured start, one seed. The",
        "bytes are those of the files, embedding included.",
        "",
        "| profile | bytes | perplexity | KL |",
        "|---|---:|---:|---:|",
    ]
    checks = []
    for bits in UNIFORM:
        run = read_run(directory / f"at-{bits}-bits")
        if not (run.path / "stock.json").exists():
            continue  # not finished yet
        rows = json.loads(run.evaluation.read_text(encoding="utf-8"))["profiles"]
        stock = json.loads((run.path / "stock.json").read_text(encoding="utf-8"))
        for name, row in rows.items():
            if name != "dense" or bits == UNIFORM[0]:
                label = {"uniform": f"uniform {bits} bits", "dp": "knapsack on layer errors"}.get(name, name)
                lines.append(f"| {label} | {row['bytes']:,} | {row['perplexity']:.2f} | {row['kl']:.4f} |")
        searched = stock["searched"]
        checks.append(
            f"At the size of {bits} bits, transformers {stock['transformers']} in another process: logits of a "
            f"sequence {'equal' if stock['equal'] else 'NOT equal'} bit for bit, perplexity {stock['perplexity']:.4f} "
            f"where the run's evaluation says {searched:.4f} ({stock['perplexity'] / searched - 1:+.3%}); the files "
            f"have {stock['bytes']:,} bytes, the budget was {int(run.config.budget.target):,}."
        )
    return "\n".join([*lines, "", *checks]) + "\n"


def main() -> None:
    """Search what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    add_settings(parser)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if not options.only_table:
        search(options)
    text = table(options.directory)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
