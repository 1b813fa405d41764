"""Fixtures shared by all tests: a pico checkpoint and a text, made in code, and runs on them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("evopress", deadline=None, derandomize=True)  # machines differ, results must not
hypothesis.settings.load_profile("evopress")

WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "it",
    "rained",
    "hard",
    "today",
    "again",
    "nobody",
    "knew",
    "why",
)

SMALL_OTHER: dict[str, Any] = {
    "sequence_length": 16,
    "calibration_tokens": 256,
    "search_tokens": 512,
    "heldout_tokens": 256,
    "generations": 3,
    "offspring": 4,
    "survivors": (2, 1),
    "tokens_per_stage": (32, 64),
    "start_tokens": 32,
    "sensitivity_tokens": (64, 128),
    "polish": "none",
}
"""Settings of any application with which a whole run on a pico model takes a fraction of a second."""

SMALL = SMALL_OTHER | {"bits": 3, "levels": (2, 3, 4), "group_size": 16}
"""The same of bits."""


def write_text(path: Path, words: int = 6000, seed: int = 0) -> Path:
    """A file of random sentences in several paragraphs."""
    rng = random.Random(seed)
    lines = [" ".join(rng.choice(WORDS) for _ in range(200)) for _ in range(words // 200)]
    path.write_text("\n\n".join(lines))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama on disk, with tokenizer."""
    from evopress.testing import write_pico_checkpoint

    path = tmp_path_factory.mktemp("model")
    write_pico_checkpoint(path, "llama")
    return path


@pytest.fixture(scope="session")
def bos_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer that puts `<s>` before every text."""
    from evopress.testing import write_pico_checkpoint

    path = tmp_path_factory.mktemp("bos")
    write_pico_checkpoint(path, "llama", bos=True)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text long enough for `SMALL`."""
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture
def small(checkpoint: Path, text: Path) -> dict[str, Any]:
    """Arguments for `evopress.quantize` and `evopress.settings.resolve.resolve`, all but `out`."""
    return {"model": str(checkpoint), "data": str(text), **SMALL}


@pytest.fixture
def small_other(checkpoint: Path, text: Path) -> dict[str, Any]:
    """Arguments of any application, without a budget."""
    return {"model": str(checkpoint), "data": str(text), **SMALL_OTHER}
