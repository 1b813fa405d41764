"""The presets are the paper's numbers, and valid."""

from collections.abc import Callable
from random import Random

import pytest

from evopress.errors import ConfigError, ScheduleError
from evopress.search import PRESETS, Preset, make_mutation
from evopress.space import SearchSpace


def test_the_papers_numbers() -> None:
    paper, fast = PRESETS["paper"], PRESETS["super-fast"]
    assert (paper.generations, paper.offspring, paper.exchange, paper.mutation) == (150, 128, "size", "equal")
    assert (paper.survivors, paper.tokens) == ((16, 4, 1), (2048, 16384, 131072))
    assert (fast.generations, fast.offspring, fast.survivors, fast.tokens) == (400, 16, (1, 1), (512, 8192))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_valid(preset: Preset, toy: Callable[..., SearchSpace]) -> None:
    search = preset.strategy(toy(exchange=preset.exchange), Random(0), available_tokens=preset.tokens[-1])
    assert search.ask() is not None
    with pytest.raises(ScheduleError, match="that exist"):
        preset.strategy(toy(), Random(0), available_tokens=preset.tokens[-1] - 1)


def test_unknown_mutations_list_the_known() -> None:
    with pytest.raises(ConfigError, match="'swap'; use one of equal, free, bands, roles, mixed"):
        make_mutation("swap")
