"""Whether plain transformers, in a process of its own, computes with a run's export what the run says.

    python scripts/check_transformers.py RUN

Runs `stock_perplexity.py` on the held-out text of the run, keeps both as RUN/tokens.json and RUN/stock.json, and
prints what it found: perplexity there and in the run's evaluation, whether the logits of a sequence are bit for bit
those of the searched model, and the size of the files. It ends with 1 when the perplexities are more than 1 % apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from evopress.formats.shards import weight_bytes
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.run.records import read_profile
from evopress.run.wording import final
from evopress.steps.workspace import Workspace

SCRIPT = Path(__file__).with_name("stock_perplexity.py")
LIMIT = 0.01
"""Relative difference of perplexities; rounding makes them differ by less than a thousandth."""


def check(directory: Path) -> dict[str, Any]:
    """What the other process found, with `searched`, the run's own perplexity, `equal` logits, and `bytes`."""
    workspace = Workspace(read_run(directory), Observer())
    run, sequences = workspace.run, [sequence.tolist() for sequence in workspace.splits.heldout.sequences]
    tokens, answer = run.path / "tokens.json", run.path / "stock.json"
    tokens.write_text(json.dumps(sequences), encoding="utf-8")
    subprocess.run([sys.executable, SCRIPT, run.export, tokens, "--out", answer], check=True, capture_output=True)
    expected = workspace.searched(read_profile(run.profile)).logits(torch.tensor(sequences[0])[None])[0].contiguous()
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    rows = json.loads(run.evaluation.read_text(encoding="utf-8"))["profiles"]
    found["searched"] = rows[final(rows)]["perplexity"]
    found["equal"] = found["logits"] == hashlib.sha256(expected.numpy().tobytes()).hexdigest()
    found["bytes"] = weight_bytes(run.export)
    answer.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    found = check(parser.parse_args().run)
    apart = found["perplexity"] / found["searched"] - 1
    sys.stdout.write(
        f"transformers {found['transformers']} in another process: logits of a sequence "
        f"{'equal' if found['equal'] else 'not equal'} bit for bit, perplexity {found['perplexity']:.4f} where the "
        f"run's evaluation says {found['searched']:.4f} ({apart:+.3%}, {found['tokens']:,} predictions); the files "
        f"have {found['bytes']:,} bytes\n"
    )
    if abs(apart) > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
