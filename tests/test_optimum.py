"""On a space small enough to enumerate, with real levels and the real divergence, every search ends at the optimum."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.fitness.divergence import KL
from evopress.pipeline import build, resolve
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.search import BruteForce, Evolution, Schedule, Stage, free_switches, run_search
from evopress.search.moves.adaptive import AdaptiveMoves
from evopress.search.starts.drawn import random_starts
from evopress.steps.workspace import Workspace
from evopress.testing import write_pico_checkpoint

Table = dict[Profile, float]


@pytest.fixture(scope="module")
def enumerated(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[SearchSpace, Table]:
    """Every profile within 2.7 bits of a two-block GPT-2 with four units a block, and its KL on 96 tokens."""
    folder = tmp_path_factory.mktemp("optimum")
    write_pico_checkpoint(folder / "model", "gpt2", blocks=2)
    settings: dict[str, Any] = {"sequence_length": 16, "calibration_tokens": 256, "heldout_tokens": 96}
    settings |= {"levels": (2, 3, 4), "group_size": 16, "search_tokens": 96, "survivors": (1,)}
    settings |= {"tokens_per_stage": (64,)}
    config = resolve(str(folder / "model"), bits="2.7", data=str(text), start_tokens=64, **settings)
    workspace = Workspace(start_run(folder / "run", config), Observer())
    build(workspace)
    table: Table = {}
    with workspace.evaluator(workspace.splits.search, (KL(),), 256) as evaluator:

        def score(profiles: Sequence[Profile], tokens: int) -> list[float]:
            for start in range(0, len(profiles), 256):
                part = list(profiles[start : start + 256])
                table.update(zip(part, evaluator.evaluate_all(part).scores(), strict=True))
            return [table[profile] for profile in profiles]

        run_search(BruteForce(workspace.space, tokens=96, full=False), score)
    return workspace.space, table


@pytest.mark.parametrize("seed", range(20))
def test_the_search_finds_the_optimum(enumerated: tuple[SearchSpace, Table], seed: int) -> None:
    space, table = enumerated
    assert len(table) > 1000
    search = Evolution(
        space,
        random.Random(seed),
        Schedule(generations=100, offspring=16, stages=[Stage(tokens=96, survivors=4), Stage(tokens=96, survivors=1)]),
        mutate=free_switches,
        start=[space.uniform()],
    )
    assert table[search.best] > min(table.values()), "the search starts at the optimum, so it proves nothing"
    found = run_search(search, lambda profiles, tokens: [table[profile] for profile in profiles])
    assert table[found] == min(table.values())


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Workspace, Table]:
    """The same model at 2.4 bits, of which each attention and each MLP can be dropped, too."""
    folder = tmp_path_factory.mktemp("joint")
    write_pico_checkpoint(folder / "model", "gpt2", blocks=2)
    settings: dict[str, Any] = {"sequence_length": 16, "calibration_tokens": 256, "heldout_tokens": 96}
    settings |= {"levels": (2, 4), "group_size": 16, "search_tokens": 96, "survivors": (1,), "use": ("bits", "depth")}
    settings |= {"tokens_per_stage": (64,), "sensitivity_tokens": (64,)}
    config = resolve(str(folder / "model"), bits="2.4", data=str(text), start_tokens=64, **settings)
    workspace = Workspace(start_run(folder / "run", config), Observer())
    build(workspace)
    space = workspace.space
    levels = itertools.product(*(range(len(unit.levels)) for unit in space.units))
    profiles = [space.decode(own) for own in levels if space.fits(own)]
    with workspace.evaluator(workspace.splits.search, (KL(),), 256) as evaluator:
        scores = evaluator.evaluate_all(profiles).scores()
    return workspace, dict(zip(profiles, scores, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_search_finds_the_optimum_of_levels_and_drops(joint: tuple[Workspace, Table], seed: int) -> None:
    """In as many generations as levels alone have, from a random start."""
    workspace, table = joint
    space, rng = workspace.space, random.Random(seed)
    assert len(table) > 300
    search = Evolution(
        space,
        rng,
        Schedule(generations=100, offspring=16, stages=[Stage(tokens=96, survivors=4), Stage(tokens=96, survivors=1)]),
        mutate=AdaptiveMoves(workspace.family.moves),
        start=random_starts(space, 1, rng),
    )
    found = run_search(search, lambda profiles, tokens: [table[profile] for profile in profiles])
    assert table[found] == min(table.values())
