"""Configurations on disk: what earlier versions wrote is read."""

from __future__ import annotations

from typing import Any

import pytest

from evopress.errors import ConfigError
from evopress.settings.config import differences, from_toml, to_toml
from evopress.settings.resolve import resolve


def test_rounds_that_share_a_number_of_tokens_are_read() -> None:
    config = resolve("demo", bits=3, sensitivity_tokens=(1024, 1024))
    written, earlier = "sensitivity_tokens = [1024, 1024]", "sensitivity_rounds = 2\nsensitivity_tokens = 1024"
    text = to_toml(config)
    assert written in text
    assert from_toml(text.replace(written, earlier), "here") == config


def test_runs_from_before_bos_had_none() -> None:
    config = resolve("demo", bits=3)
    assert config.data.bos == "auto"
    earlier = from_toml(to_toml(config).replace('bos = "auto"\n', ""), "here")
    assert earlier == resolve("demo", bits=3, bos="no")
    assert differences(earlier, config) == ["data.bos: no -> auto"]


@pytest.mark.parametrize("preset", ["paper", "super-fast"])
@pytest.mark.parametrize("budget", [{"bits": 3}, {"sparsity": 0.5}, {"fraction": 0.25}])
def test_the_papers_protocol_has_no_bos(preset: str, budget: dict[str, float]) -> None:
    assert resolve("demo", preset=preset, **budget).data.bos == "no"
    assert resolve("demo", preset=preset, bos="auto", **budget).data.bos == "auto"


def test_the_papers_presets_have_the_papers_levels_and_others_better_ones() -> None:
    quick, paper, other = (
        resolve("demo", bits=3, **more).compression
        for more in ({}, {"preset": "paper"}, {"preset": "paper", "levels": (2, 4)})
    )
    made = ("scales", "act_order", "mismatch", "refine", "propagate")
    assert [getattr(quick, name) for name in made] == ["searched", True, 0.25, 1, "auto"]
    assert [getattr(paper, name) for name in made] == ["range", False, 0.0, 0, "3"]
    assert [getattr(other, name) for name in made] == ["range", False, 0.0, 0, "auto"]


def test_runs_from_before_targets_said_what_experts_share_are_read() -> None:
    text = to_toml(resolve("model", data="text.txt", bits=4, target="vllm"))
    old = text.replace('experts = "auto"', 'experts = "each"')
    assert old != text
    assert from_toml(old, "old") == from_toml(text, "new")


def test_runs_whose_files_do_not_say_how_levels_are_made_have_the_former_ones() -> None:
    text = to_toml(resolve("demo", bits=3, act_order=False))
    earlier = "".join(
        line
        for line in text.splitlines(keepends=True)
        if line.split()[:1] not in (["scales"], ["mismatch"], ["refine"])
    )
    section = from_toml(earlier, "here").compression
    assert (section.scales, section.mismatch, section.refine) == ("range", 0.0, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"scales": "minmax"}, "scales"), ({"mismatch": 1.5}, "mismatch is 1.5"), ({"refine": -1}, "refine is -1")],
)
def test_wrong_ways_to_make_levels_are_one_line(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("demo", bits=3, **setting)
    assert "\n" not in str(caught.value)
