"""Fixtures shared by all tests: a pico checkpoint and a text, made in code, and runs on them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("evopress", deadline=None, derandomize=True)  # machines differ, results must not
hypothesis.settings.load_profile("evopress")

OLDEST = "5.0."
NOT_ON_OLDEST = {  # why not -> tests that transformers 5.0 fails itself, or whose models it lacks or builds otherwise
    "the class is newer": r"\[(gemma4|qwen3_5)_text|\[olmo_hybrid|part_for_each|put_another_block|hand_on_more",
    "it cannot be made tiny": r"classes\[(dbrx|exaone4|gpt_bigcode|phi|zamba)\]|\[jetmoe\]|fails_in_its_dtype",
    "states lie in caches of its own": r"(falcon_h1|mamba2)\]|recurrent_gemma|keeps_a_state|three_sublayers",
    "GPT-NeoX has another head and rotary share": r"tail_and_head\[gpt_neox|as_it_was_saved\[gpt_neox",
    "GPT-2 takes no notice of its number with SDPA": r"depend_on_their_number",
    "it checks no rotary settings": r"cannot_be_shorter_say_why",
    "it cannot read Gemma's tokenizer in a GGUF file": r"all_families_load_at_the_predicted_size\[gemma",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not version("transformers").startswith(OLDEST):
        return
    for item in items:
        for reason, pattern in NOT_ON_OLDEST.items():
            if item.path.parent.name in ("models", "formats") and re.search(pattern, item.name):
                item.add_marker(pytest.mark.skip(reason=f"transformers {OLDEST}*: {reason}"))


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """A power cut is all that syncing files helps against, and a third of what small runs wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


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
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Model type of a mixture -> a tiny checkpoint of it on disk, with tokenizer, the same for all tests."""
    import torch
    import transformers

    from evopress.testing import pico_tokenizer, randomize
    from evopress.testing.tiny import tiny_config

    @cache
    def written(model_type: str) -> str:
        path = tmp_path_factory.mktemp(model_type)
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
        randomize(model)
        model.save_pretrained(path)
        pico_tokenizer().save_pretrained(path)
        return str(path)

    return written


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
