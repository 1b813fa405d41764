"""A build holds one block, not the model: weights are pages of their files, which the system may drop at any time."""

from __future__ import annotations

import json
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


EXPERTS = """
import json

from evopress.models.memory import build_memory, measure_shapes
from evopress.levels.quantized import storage_bits

folder, database = sys.argv[1:]
torch.set_num_threads(1)
model = load_model(folder, dtype=torch.float32, device="cpu").model
for parameter in model.parameters():
    parameter.data = parameter.data.clone()  # its own memory, not pages of files
runner, grids = Runner(model, describe(model)), {str(bits): Grid(bits, 64, False) for bits in (3, 4)}
bits = [storage_bits((1, 64), grid) / 64 for grid in grids.values()]
needs = build_memory(measure_shapes(model, runner.map), 512, 512, bits, corrects=True)

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

anonymous()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = resident("VmRSS:")
build_database(Path(database), runner, Quantization(grids=grids, propagate="4"), [torch.arange(1, 65)] * 8, {})
del needs["model"]
print(json.dumps({"peak": resident("VmHWM:") - before, "needs": needs}))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_the_peak_of_32_experts_is_within_the_formula(tmp_path: Path) -> None:
    config = transformers.Qwen3MoeConfig(
        hidden_size=256, moe_intermediate_size=256, num_hidden_layers=2, num_attention_heads=8, vocab_size=512,
        num_experts=32, num_experts_per_tok=4, max_position_embeddings=128,
    )  # fmt: skip
    random_model(config).save_pretrained(tmp_path / "model")
    pico_tokenizer().save_pretrained(tmp_path / "model")
    words = [sys.executable, "-c", BUILD.partition("def peak")[0] + EXPERTS, tmp_path / "model", tmp_path / "database"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    needs = sum(found["needs"].values())
    assert needs / 2 < found["peak"] < needs + 2**23, found  # what threads and allocators take is not counted
