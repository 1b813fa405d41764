"""The presets are the paper's numbers, and valid."""

from collections.abc import Callable
from random import Random

import pytest

from evopress.core.profile import Level, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ConfigError
from evopress.search import PRESETS, Evolution, Preset, Schedule, make_mutation, validate_schedule
from evopress.search.moves.adaptive import AdaptiveMoves
from evopress.search.moves.depth import depth_moves
from evopress.search.presets import depth_generations


def test_the_papers_numbers() -> None:
    paper, fast = PRESETS["bits"]["paper"], PRESETS["bits"]["super-fast"]
    assert (paper.generations, paper.offspring, paper.exchange, paper.mutation) == (150, 128, "size", "equal")
    assert (paper.survivors, paper.tokens) == ((16, 4, 1), (2048, 16384, 131072))
    assert (fast.generations, fast.offspring, fast.survivors, fast.tokens) == (400, 16, (1, 1), (512, 8192))


def test_the_papers_numbers_for_sparsity_and_depth() -> None:
    sparsity, depth = PRESETS["sparsity"]["paper"], PRESETS["depth"]["paper"]
    assert (sparsity.generations, sparsity.offspring, sparsity.exchange) == (400, 64, "any")
    assert (sparsity.survivors, sparsity.tokens) == ((8, 2, 1), (2048, 16384, 65536))
    assert (depth.generations, depth.offspring, depth.exchange) == (None, 32, "role")
    assert (depth.survivors, depth.tokens) == ((2, 1), (2048, 32768))
    assert (depth.start_candidates, depth.start_tokens) == (64, 2048)


def test_generations_for_depth_count_units_of_mean_cost() -> None:
    sizes = [1, 3] * 4
    units = [Unit(f"u{i}", i, "u", size, (Level("drop", 0), Level("keep", size))) for i, size in enumerate(sizes)]
    assert depth_generations(make_space(units, share="0.75", exchange="any")) == 8  # 6 (8 - 6) / 1.5
    assert depth_generations(make_space(units[::2], share="0.75", exchange="any")) == 2  # 3 (4 - 3) / 1.5


ALL = {f"{kind}-{name}": preset for kind, presets in PRESETS.items() for name, preset in presets.items()}


@pytest.mark.parametrize("preset", ALL.values(), ids=ALL)
def test_presets_are_valid(preset: Preset, toy: Callable[..., SearchSpace]) -> None:
    space = toy(exchange=preset.exchange)
    stages = validate_schedule(preset.offspring, preset.survivors, preset.tokens, preset.tokens[-1])
    generations = depth_generations(space) if preset.generations is None else preset.generations
    schedule = Schedule(generations=generations, offspring=preset.offspring, stages=stages)
    assert Evolution(space, Random(0), schedule).ask() is not None


def test_adaptive_moves_of_depth_are_its_own() -> None:
    moves = make_mutation("adaptive", moves=depth_moves())
    assert isinstance(moves, AdaptiveMoves)
    assert set(moves.shares()) == {"switch", "slide", "blocks"}


def test_unknown_mutations_list_the_known() -> None:
    with pytest.raises(ConfigError, match="'swap'; use one of equal, free, bands, roles, mixed"):
        make_mutation("swap")
