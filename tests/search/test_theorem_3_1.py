"""A light version of benchmarks/theorem_3_1.py: the search needs O(k(n-k)/offspring) generations."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "theorem_3_1.py"
    spec = importlib.util.spec_from_file_location("theorem_3_1", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["theorem_3_1"] = module
    spec.loader.exec_module(module)
    return module


def test_generations_grow_as_the_theorem_says(benchmark_module: ModuleType) -> None:
    rows = benchmark_module.measure([(8, 2), (8, 4), (16, 4), (16, 8), (24, 12)], (1, 4, 16), seeds=6)
    benchmark_module.check(rows)


def test_the_check_can_fail(benchmark_module: ModuleType) -> None:
    rows = [
        benchmark_module.Row(n=16, k=8, offspring=number, generations=300.0 / number, error=0.0) for number in (1, 2, 4)
    ]
    with pytest.raises(AssertionError, match="above the bound"):
        benchmark_module.check(rows)
    with pytest.raises(AssertionError, match="correlation"):
        benchmark_module.check([replace(row, generations=row.offspring) for row in rows])
