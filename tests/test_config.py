"""Configurations on disk: what earlier versions wrote is read."""

from __future__ import annotations

from evopress.config import from_toml, to_toml
from evopress.resolve import resolve


def test_rounds_that_share_a_number_of_tokens_are_read() -> None:
    config = resolve("demo", bits=3, sensitivity_tokens=(1024, 1024))
    written, earlier = "sensitivity_tokens = [1024, 1024]", "sensitivity_rounds = 2\nsensitivity_tokens = 1024"
    text = to_toml(config)
    assert written in text
    assert from_toml(text.replace(written, earlier), "here") == config
