"""The toys of benchmarks/toy_landscapes.py are what they say, and a short run keeps every promise."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def toys() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "toy_landscapes.py"
    spec = importlib.util.spec_from_file_location("toy_landscapes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_landscapes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("interacting", [False, True])
def test_single_changes_are_differences_of_the_truth(toys: ModuleType, interacting: bool) -> None:
    toy = toys.make_toy(210, interacting, 0)
    uniform = np.full(210, toys.UNIFORM)
    found = toy.single_changes()
    for unit, level in ((0, 0), (5, 4), (209, 2), (100, 1)):
        child = uniform.copy()
        child[unit] = level
        assert found[unit, level] == pytest.approx(toy.truth(child) - toy.truth(uniform), abs=1e-12)


def test_noise_shrinks_with_tokens_and_is_shared(toys: ModuleType) -> None:
    toy = toys.make_toy(210, False, 0)
    uniform = toy.space.uniform()
    other = toy.space.decode(toys.additive_best(toy.space, toy.errors))
    spread = []
    for tokens in (256, 256 * 64):
        evaluate = toy.evaluator(0)
        pairs = np.array([evaluate([uniform, other, uniform], tokens) for _ in range(300)])
        assert (pairs[:, 0] == pairs[:, 2]).all()
        spread.append(float(np.std(pairs[:, 1] - pairs[:, 0])))
    assert spread[0] / spread[1] == pytest.approx(8, rel=0.15)


def test_the_best_known_is_better_than_any_search_found(toys: ModuleType) -> None:
    for interacting in (False, True):
        toy = toys.make_toy(210, interacting, 1)
        best, predicted = toys.best_known(toy), toys.predictions(toy, 0.9, 1)
        assert best < toy.truth(np.full(210, toys.UNIFORM))
        course = toys.run(toy, best, toys.METHODS["preselect + moves"], predicted, 110_000, 1)
        assert 0 < max(course.closed) < 1
        assert "| preselect |" in toys.table({"preselect": [course]}, 110_000)


@pytest.mark.parametrize(("units", "budget", "mark"), [(210, 300_000, 0.2), (2100, 60_000, 0.1), (20064, 40_000, 0.1)])
@pytest.mark.parametrize("interacting", [False, True], ids=["linear", "interacting"])
def test_ours_needs_half_the_tokens_of_algorithm_1_or_fewer(
    toys: ModuleType, units: int, budget: int, mark: float, interacting: bool
) -> None:
    """Tokens until a part of the gap is closed, the warm start's among them; median of five small toys, or one."""
    until: dict[str, list[float]] = {"paper": [], "start + preselect + race": []}
    for seed in range(5 if units == 210 else 1):
        toy = toys.make_toy(units, interacting, seed)
        predicted = toys.predictions(toy, 0.75, seed)
        best = 0.0 if interacting and units > 210 else toys.best_known(toy)  # 0: a part of the whole score is closed
        for name, own in until.items():
            own.append(toys.run(toy, best, toys.METHODS[name], predicted, budget, seed).until(mark))
    theirs, ours = (sorted(own)[len(own) // 2] for own in until.values())
    assert ours < budget
    assert ours < theirs / 2
