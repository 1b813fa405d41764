"""What `auto` comes to is resolved, recorded and said; what is asked for stays."""

from typing import Any

import pytest

from evopress.search.automatic import AUTO, automatic
from evopress.settings.config import from_toml, to_toml
from evopress.settings.resolve import resolve

BUDGETS: list[dict[str, Any]] = [{"bits": 3}, {"sparsity": 0.5}, {"fraction": 0.25}]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: next(iter(budget)))
def test_auto_is_the_default_and_never_left_in_a_configuration(budget: dict[str, Any]) -> None:
    config = resolve("demo", **budget)
    section = config.search
    expected = automatic(config.families, section.tokens_per_stage[-1])
    assert set(section.automatic) == set(expected)
    assert {name: getattr(section, name) for name in expected} == expected
    assert AUTO not in section.model_dump().values()
    assert from_toml(to_toml(config), "here") == config
    assert section.automatic_text.startswith("auto: start ")


def test_each_part_can_be_chosen_alone() -> None:
    parts = {"start": "knapsack", "mutation": "equal", "preselect": 1, "race": False}
    for name, value in parts.items():
        section = resolve("demo", bits=3, **{name: value}).search
        assert getattr(section, name) == value
        assert set(section.automatic) == set(parts) - {name}
    section = resolve("demo", bits=3, **parts).search
    assert section.automatic == ()
    assert section.automatic_text == ""


def test_moves_of_several_sizes_are_for_starts_that_measure_nothing() -> None:
    assert resolve("demo", bits=3).search.mutation == "free"
    for start in ("uniform", "knapsack", "coarse"):
        assert resolve("demo", bits=3, start=start).search.mutation == "adaptive"
    assert resolve("demo", fraction=0.25).search.mutation == "adaptive"


def test_the_papers_presets_leave_nothing_to_auto_unless_told() -> None:
    for preset in ("paper", "super-fast"):
        section = resolve("demo", bits=3, preset=preset).search
        assert (section.start, section.mutation, section.preselect, section.race) == ("uniform", "equal", 1, False)
        assert section.automatic == ()
    assert resolve("demo", bits=3, preset="paper", start="auto").search.automatic == ("start",)


def test_a_short_last_stage_is_no_race() -> None:
    assert not resolve("demo", bits=3, tokens_per_stage=(256, 1024)).search.race
    assert resolve("demo", bits=3, tokens_per_stage=(256, 1024), race=True).search.race
    assert resolve("demo", bits=3, tokens_per_stage=[512, 4096]).search.race


def test_what_has_no_parts_says_nothing_of_auto() -> None:
    assert resolve("demo", bits=3, strategy="best-of").search.automatic_text == ""


def test_a_coarse_start_has_coarse_generations() -> None:
    assert resolve("demo", bits=3, start="coarse").search.coarse_generations > 0
    assert resolve("demo", bits=3, start="coarse", coarse_generations=2).search.coarse_generations == 2
    assert resolve("demo", bits=3).search.coarse_generations == 0
