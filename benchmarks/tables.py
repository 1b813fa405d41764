"""The paper's tables at the size of a small machine: depth and sparsity on SmolLM2, every baseline beside the search.

Each target is a run directory with a comparison, so the script can be stopped and started again at any time. Two texts
score the profiles: held-out articles, and English of another kind (Python's own reference manual, which comes with the
interpreter). With hub access `--model`, `--data` and `--second` take any model and the paper's texts.

    python benchmarks/tables.py runs/tables                                  # all targets, three seeds: hours
    python benchmarks/tables.py runs/tables --targets fraction=0.25 --seeds 1
    python benchmarks/tables.py runs/tables --only-table --table docs/results-tables.md
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evopress.compare import compare
from evopress.config import Config, resolve
from evopress.files import write_text
from evopress.observer import Observer
from evopress.pipeline import run_all
from evopress.run import read_run
from evopress.workspace import Workspace

TARGETS = (
    "fraction=0.125",
    "fraction=0.25",
    "fraction=0.375",
    "fraction=0.5",
    "sparsity=0.5",
    "sparsity=0.6",
    "sparsity=0.7",
)
SECOND_TOKENS = 8192


class Printer(Observer):
    """A line for what happens."""

    def note(self, text: str) -> None:
        """One line."""
        print(text, flush=True)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--second", help="another text; default: Python's reference manual")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    second = options.second or str(manual(options.out / "manual.txt"))
    if not options.only_table:
        for target in options.targets:
            name, value = target.split("=")
            config = resolve(options.model, data=options.data, preset=options.preset, **{name: value})
            run_target(options.out / target.replace("=", "-"), config, second, options.seeds)
    text = "\n".join(tables(options.out))
    print(text)
    if options.table:
        write_text(options.table, text + "\n")


def manual(path: Path) -> Path:
    """The language reference as a text file, a paragraph a line."""
    if not path.exists():
        topics: dict[str, str] = pydoc_data.topics.topics
        write_text(path, "\n\n".join(topics[name] for name in sorted(topics)))
    return path


def run_target(directory: Path, config: Config, second: str, seeds: int) -> None:
    """Search, compare on both texts, and keep both results in `tables.json`."""
    done = directory / "tables.json"
    if done.exists() and json.loads(done.read_text())["seeds"] >= seeds:
        return
    print(f"{directory}", flush=True)
    run_all(config, directory, Printer())
    workspace = Workspace(read_run(directory), Printer())
    results = {
        "held-out": compare(workspace, seeds=seeds),
        "second": compare(workspace, seeds=seeds, data=second, tokens=SECOND_TOKENS),
        "seeds": seeds,
    }
    write_text(done, json.dumps(results, indent=1) + "\n")


def tables(out: Path) -> Iterator[str]:
    """A table for each finished target."""
    for path in sorted(out.glob("*/tables.json")):
        results = json.loads(path.read_text())
        first, other = results["held-out"], results["second"]
        name, _, value = path.parent.name.partition("-")
        seeds = results["seeds"]
        yield f"### {name} {value} ({seeds} seed{'s' if seeds > 1 else ''})"
        yield ""
        yield "| | KL | perplexity | KL, second text | perplexity, second text | search tokens | seconds |"
        yield "| --- | --: | --: | --: | --: | --: | --: |"
        order = sorted(first["profiles"], key=lambda name: first["profiles"][name]["kl"])
        yield from (row(name, first["profiles"][name], other["profiles"][name]) for name in order)
        yield from (f"\n{name} was skipped: {why}" for name, why in first["skipped"].items())
        yield ""


def row(name: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    """One line of a table."""
    cells = [name, spread(first), f"{first['perplexity']:.2f}", spread(second), f"{second['perplexity']:.2f}"]
    cells += [f"{first.get('search_tokens', 0):,.0f}", f"{first.get('search_seconds', 0):.0f}"]
    return "| " + " | ".join(cells) + " |"


def spread(scores: dict[str, Any]) -> str:
    """The KL, and its standard deviation over seeds where there are several."""
    if "kl_spread" in scores:
        return f"{scores['kl']:.4f} ± {scores['kl_spread']:.4f}"
    return f"{scores['kl']:.4f}"


if __name__ == "__main__":
    main()
