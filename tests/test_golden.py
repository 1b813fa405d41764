"""Moving code changes nothing: runs, their files and exports are those of an earlier commit, byte by byte.

Digests belong to one kind of machine and one set of libraries; elsewhere there is nothing to compare, and the tests
are skipped. After a change that means to give other results, record anew: `python tests/golden/record.py`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent / "golden"
RUNS = ("bits", "packed", "ggml", "sparsity", "depth")


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_record", FOLDER / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    recorded, here = json.loads((FOLDER / "hashes.json").read_text("utf-8"))["machine"], module.machine()
    if odd := [f"{key} {here[key]}, not {recorded[key]}" for key in recorded if here[key] != recorded[key]]:
        pytest.skip(f"recorded where numbers round otherwise: {'; '.join(odd)}")
    return module


@pytest.fixture(scope="module")
def place(golden: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("golden")
    with golden.at(folder):
        golden.make_inputs(folder)
        yield folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_and_its_exports_have_the_recorded_bytes(golden: ModuleType, place: Path, name: str) -> None:
    recorded = json.loads((FOLDER / "hashes.json").read_text("utf-8"))["runs"]
    assert set(recorded) == set(RUNS)
    assert golden.run(name) == recorded[name]


def test_a_run_that_an_earlier_commit_left_in_mid_search_comes_to_the_same_profile(
    golden: ModuleType, place: Path
) -> None:
    shutil.copytree(FOLDER / "unfinished", place / "unfinished")
    before = (place / "unfinished/journal.jsonl").read_bytes()
    profile = golden.unfinished(Path("unfinished"))()
    after = (place / "unfinished/journal.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    assert profile == json.loads((FOLDER / "unfinished/expected.json").read_text("utf-8"))
