"""A build holds one block, not the model: weights are pages of their files, which the system may drop at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from evopress.testing import pico_tokenizer, random_model

BUILD = """
import ctypes
import sys
from pathlib import Path

import torch

from evopress.levels.grid import Grid
from evopress.database.build import build_database
from evopress.database.methods import Quantization
from evopress.models import Runner, describe, load_model

def anonymous():
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system: the allocator's habits are not the build's
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

def peak(folder, database):
    peaks = []
    model = load_model(folder, dtype=torch.bfloat16, device="cpu").model
    method = Quantization(grids={"4": Grid(4, 64, False)}, propagate="4")
    build_database(
        Path(database),
        Runner(model, describe(model)),
        method,
        [torch.arange(1, 65)] * 4,
        {},
        progress=lambda *_: peaks.append(anonymous()),  # at every step, so that it is the same steps each time
    )
    return max(peaks)

torch.set_num_threads(1)
small, large, folder = sys.argv[1:]
first = peak(small, folder + "/small-database")
print(peak(large, folder + "/large-database") - first)
"""


def checkpoint(path: Path, blocks: int) -> int:
    """Write a model; returns the bytes of its blocks."""
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=blocks, num_attention_heads=8, vocab_size=512
    )
    model = random_model(config).to(torch.bfloat16)
    model.save_pretrained(path)
    pico_tokenizer().save_pretrained(path)
    return sum(parameter.nbytes for parameter in model.model.layers.parameters())


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_the_peak_does_not_grow_with_depth(tmp_path: Path) -> None:
    checkpoint(tmp_path / "small", 2)
    blocks = checkpoint(tmp_path / "large", 8)
    words = [sys.executable, "-c", BUILD, tmp_path / "small", tmp_path / "large", tmp_path]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    grown = int(done.stdout.split()[-1])
    assert grown < 0.5 * blocks  # six more blocks held would be 0.75
