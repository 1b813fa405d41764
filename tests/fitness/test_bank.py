"""The bank: no file is read twice for what is resident, and the stated memory is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from evopress.database.build import build_database
from evopress.database.methods import Quantization
from evopress.database.store import Database
from evopress.fitness.bank import Bank
from evopress.levels.grid import Grid
from evopress.models import Runner, describe
from evopress.testing import pico_model


@pytest.fixture
def database(tmp_path: Path) -> Database:
    model = pico_model("gpt2", blocks=2)
    method = Quantization(name="rtn", grids={"3": Grid(3, 16), "4": Grid(4, 16)})
    return build_database(tmp_path, Runner(model, describe(model)), method, [], {"model": "m"})


@pytest.fixture
def reads(database: Database, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each level was read from disk."""
    counts: Counter[tuple[str, str]] = Counter()
    load = database.load

    def counted(unit: str, level: str) -> object:
        counts[unit, level] += 1
        return load(unit, level)

    monkeypatch.setattr(database, "load", counted)
    return counts


def use_all(bank: Bank, database: Database) -> list[torch.Tensor]:
    return [bank.load(unit, level, torch.float32) for unit in database.manifest.names for level in ("3", "4")]


def test_resident_levels_are_read_once(database: Database, reads: Counter[tuple[str, str]]) -> None:
    bank = Bank(database, torch.device("cpu"), memory=10**9)
    first = use_all(bank, database)
    second = use_all(bank, database)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_memory_is_kept_and_results_are_the_same(database: Database, share: float) -> None:
    everything = use_all(Bank(database, torch.device("cpu"), memory=10**9), database)
    limit = int(share * sum(tensor.nbytes for tensor in everything))
    bank = Bank(database, torch.device("cpu"), memory=limit)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(use_all(bank, database), everything, strict=True))
        assert bank.resident_bytes <= limit
    assert bank.resident_bytes >= limit - max(tensor.nbytes for tensor in everything)


def test_what_is_not_dense_is_packed_before_a_file_is_read_twice(
    database: Database, reads: Counter[tuple[str, str]]
) -> None:
    stored = sum(level.storage_bits // 8 for entry in database.manifest.units.values() for level in entry.levels)
    everything = use_all(Bank(database, torch.device("cpu"), memory=10**9), database)
    reads.clear()
    for room in (stored, 2 * stored):  # no level dense, some dense
        bank = Bank(database, torch.device("cpu"), memory=room)
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(use_all(bank, database), everything, strict=True))
        assert bank.resident_bytes <= room
    assert set(reads.values()) == {2}  # once for each bank
    small = Bank(database, torch.device("cpu"), memory=stored // 2)
    use_all(small, database)
    reads.clear()
    use_all(small, database)
    assert 0 < len(reads) < len(everything)


def test_tensors_have_the_layout_of_the_parameter(database: Database) -> None:
    """GPT-2 stores (in, out)."""
    bank = Bank(database, torch.device("cpu"), memory=10**9)
    model = pico_model("gpt2", blocks=2)
    for linear in describe(model).linears:
        tensor = bank.load(linear.name, "4", torch.float32)
        dense = model.get_parameter(linear.view.parameter)
        assert tensor.shape == dense.shape
        assert (tensor - dense).norm() < 0.2 * dense.norm()


def test_levels_loaded_while_scoring_can_be_differentiated_through(database: Database) -> None:
    bank = Bank(database, torch.device("cpu"), memory=10**9)
    with torch.inference_mode():
        tensors = use_all(bank, database)
    assert not any(tensor.is_inference() for tensor in tensors)
