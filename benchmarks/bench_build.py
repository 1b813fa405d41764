"""A whole database against its forward passes: build time, size on disk, peak memory.

The forward passes are two, what the paper's levels need: one to see the inputs, one through the compressed block. The
default levels need a third, as they look at the dense model's inputs, too (goal: the whole build takes at most three
times the two; a 2,3,4,5,6-bit database takes at most 1.4 times the bf16 weights). Times are those of the processor, so
that other work on the machine does not count.

    python benchmarks/bench_build.py demo --tokens 32768
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from evopress.database.build import planned_bits
from evopress.models.batches import batches
from evopress.pipeline import build
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import PAPER_LEVELS, resolve
from evopress.steps.workspace import Workspace


def forward_seconds(workspace: Workspace) -> float:
    """Two passes of the calibration text through all blocks, in the batches that the build uses."""
    runner = workspace.runner
    started = time.process_time()
    for ids in batches(workspace.splits.calibration.sequences, workspace.batch_tokens):
        for _ in range(2):
            hidden, contexts = runner.begin(ids)
            for block in range(runner.map.n_blocks):
                hidden = runner.block(block, hidden, contexts)
    return time.process_time() - started


def main() -> None:
    """Build in a temporary directory and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default=None)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--levels", default="2,3,4,5,6")
    parser.add_argument("--paper", action="store_true", help="the paper's levels in place of the default ones")
    options = parser.parse_args()
    levels = tuple(int(level) for level in options.levels.split(","))
    with tempfile.TemporaryDirectory() as folder:
        own = PAPER_LEVELS if options.paper else {}
        settings = {"data": options.data, "calibration_tokens": options.tokens} | own | {"levels": levels}
        config = resolve(options.model, bits=3, **settings)
        workspace = Workspace(start_run(Path(folder) / "run", config), Observer())
        forward = forward_seconds(workspace)
        started = time.process_time()
        build(workspace)
        seconds = time.process_time() - started
        database = workspace.database
        stored = sum((database.directory / entry.file).stat().st_size for entry in database.manifest.units.values())
        assert stored >= planned_bits(workspace.map, workspace.family.method) // 8
    bf16 = 2 * workspace.shapes.parameters
    layers = 2 * sum(entry.size for entry in database.manifest.units.values())
    print(f"machine: {torch.get_num_threads()} threads, {workspace.loaded.model.dtype}, torch {torch.__version__}")
    print(f"{options.model}, {options.tokens} tokens, levels {options.levels}\n")
    print("| measured | value | goal |")
    print("|---|---:|---:|")
    print(f"| build / forward passes | {seconds / forward:.2f} | 3 |")
    print(f"| build | {seconds:.0f} CPU s | |")
    print(f"| forward passes (two) | {forward:.0f} CPU s | |")
    print(f"| database / bf16 model | {stored / bf16:.3f} | 1.4 |")
    print(f"| database / bf16 weights of the compressed layers | {stored / layers:.3f} | 1.4 |")
    print(f"| peak memory | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB | |")


if __name__ == "__main__":
    main()
