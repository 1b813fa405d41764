"""What a database takes on disk, file headers included: the promises of the documentation, on weights of real width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evopress.database.build import build_database
from evopress.database.methods import Method, Pruning, Quantization
from evopress.levels.grid import Grid
from evopress.levels.levels import sparsity_levels
from evopress.models import Runner, describe
from evopress.testing import pico_model


@pytest.fixture(scope="module")
def runner() -> Runner:
    model = pico_model("llama", blocks=1, width=256)
    return Runner(model, describe(model))


def stored(runner: Runner, method: Method, directory: Path) -> int:
    """Bytes of all files of units."""
    build_database(directory, runner, method, [], {"model": "m"})
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


@pytest.mark.parametrize("target", ["0.5", "0.7"])
def test_sparse_levels_take_their_values_and_a_bit_a_weight(runner: Runner, target: str, tmp_path: Path) -> None:
    sizes = {linear.name: linear.view.shape[0] * linear.view.shape[1] for linear in runner.map.linears}
    chosen = sparsity_levels(list(sizes.values()), target)
    levels = {name: {str(offset): zeros for offset, zeros in own} for name, own in zip(sizes, chosen, strict=True)}
    bits = sum(16 * (size - zeros) + size for name, size in sizes.items() for zeros in levels[name].values())
    method = Pruning(name="magnitude", levels=levels, dtype=torch.bfloat16)
    assert bits / 8 < stored(runner, method, tmp_path) <= 1.02 * bits / 8


def test_two_to_six_bits_take_at_most_1_4_of_the_bf16_weights(runner: Runner, tmp_path: Path) -> None:
    weights = sum(linear.view.shape[0] * linear.view.shape[1] for linear in runner.map.linears)
    method = Quantization(name="rtn", grids={str(bits): Grid(bits, 64) for bits in (2, 3, 4, 5, 6)})
    assert 20 / 8 * weights < stored(runner, method, tmp_path) <= 1.4 * 2 * weights
