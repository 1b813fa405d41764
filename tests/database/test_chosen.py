"""The levels of one profile: made for its own inputs, stored alone, the same bytes as a build that means the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.database.test_build import content, sequences

from evopress.database.build import build_database
from evopress.database.chosen import Chosen
from evopress.database.methods import Method, Pruning, Quantization
from evopress.database.store import Database
from evopress.levels.grid import Grid
from evopress.models import Runner, describe
from evopress.testing import pico_model

GRIDS = {bits: Grid(int(bits), 16) for bits in ("2", "3", "4")}
METHOD = Quantization(grids=GRIDS, act_order=True, search=True, rounds=1, mismatch=0.25, propagate="3")


def build(path: Path, method: Method) -> Database:
    model = pico_model("llama")
    return build_database(path, Runner(model, describe(model)), method, sequences(), {}, batch_tokens=64)


def units() -> list[str]:
    return [linear.name for linear in describe(pico_model("llama")).linears]


def test_a_uniform_profile_is_what_a_build_with_that_level_makes(tmp_path: Path) -> None:
    build(tmp_path / "chosen", Chosen(method=METHOD, levels=dict.fromkeys(units(), "3")))
    build(tmp_path / "plain", Quantization(**vars(METHOD) | {"grids": {"3": GRIDS["3"]}}))
    assert content(tmp_path / "chosen") == content(tmp_path / "plain")


def test_each_unit_has_its_level_and_later_blocks_see_them(tmp_path: Path) -> None:
    mixed = {name: ("2", "4", "16")[i % 3] for i, name in enumerate(units())}
    database = build(tmp_path / "mixed", Chosen(method=METHOD, levels=mixed))
    database.require_complete()
    for name, level in mixed.items():
        found = database.manifest.units[name].levels
        assert [own.name for own in found] == ([] if level == "16" else [level])
    other = mixed | {units()[0]: "4"}  # was 2: what block 1 sees changes, what block 0's other groups see does not
    again = build(tmp_path / "other", Chosen(method=METHOD, levels=other))
    last = [name for name in units() if mixed[name] != "16"][-1]
    same = next(name for name in units() if name.endswith("down_proj") and mixed[name] != "16" and ".0." in name)
    for name, equal in ((last, False), (same, True)):
        ours, theirs = (base.load(name, mixed[name]).dequantize() for base in (database, again))
        assert torch.equal(ours, theirs) is equal


@pytest.mark.parametrize("kept", [0, 4])
def test_goes_on_where_it_was_stopped(tmp_path: Path, kept: int) -> None:
    levels = {name: {"0": 600, "1": 900} for name in units()}
    method = Chosen(
        method=Pruning(levels=levels, dtype=torch.bfloat16, mismatch=0.5, propagate="0"),
        levels={name: str(i % 2) for i, name in enumerate(units())},
    )
    whole = build(tmp_path / "whole", method)
    for name in units()[kept:]:
        (tmp_path / "whole" / whole.manifest.units[name].file).unlink()
    before = {name: data for name, data in content(tmp_path / "whole").items() if name == "manifest.json"}
    build(tmp_path / "whole", method).verify()
    assert {name: data for name, data in content(tmp_path / "whole").items() if name == "manifest.json"} == before
