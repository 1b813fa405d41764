"""Configurations on disk: what earlier versions wrote is read."""

from __future__ import annotations

import pytest

from evopress.config import differences, from_toml, to_toml
from evopress.resolve import resolve


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
