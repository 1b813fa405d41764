"""Draws the result of a finished run as the terminal shows it: the levels by block, the scores, the verdict.

    python scripts/record_demo.py                          # runs/demo -> docs/figures/demo.svg
    python scripts/record_demo.py RUN_DIRECTORY FILE.svg

Reads profile.json and evaluation.json only; no model is loaded.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from evopress.cli.show import picture, read_levels
from evopress.cli.tables import scores_table
from evopress.errors import EvopressError
from evopress.run.directory import read_run
from evopress.run.records import read_json
from evopress.run.wording import verdict

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "figures" / "demo.svg"


def record(directory: Path, target: Path) -> None:
    """Write the picture of the run in `directory` to `target`; EvopressError when the run is not finished."""
    run = read_run(directory)
    levels, evaluation = read_levels(run), read_json(run.evaluation, "evaluate")
    drawn = picture(levels)
    width = max(84, *(len(line) for line in drawn.plain.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(drawn)
    console.print(scores_table(evaluation))
    console.print(verdict(evaluation))
    command = f"evopress {'demo' if run.config.model.source == 'demo' else 'quantize ' + run.config.model.source}"
    target.parent.mkdir(parents=True, exist_ok=True)
    # A fixed id, so that the same run gives the same bytes.
    target.write_text(console.export_svg(title=command, unique_id="evopress"), encoding="utf-8")


def main() -> None:
    """Record the run that the command line names, or the demo."""
    if len(sys.argv) not in (1, 3):
        sys.exit("usage: python scripts/record_demo.py [RUN_DIRECTORY FILE.svg]")
    given = list(map(Path, sys.argv[1:]))
    try:
        record(*(given or (Path("runs/demo"), TARGET)))
    except EvopressError as error:
        sys.exit(f"record_demo: {error}")


if __name__ == "__main__":
    main()
