"""A budget in bytes of files for depth: what is dropped is not in them, and they are never larger than was asked."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evopress
from evopress.errors import BudgetError, ConfigError
from evopress.export.formats import FORMATS
from evopress.export.shards import weight_bytes
from evopress.models import LoadedModel
from evopress.observer import Observer
from evopress.resolve import resolve
from evopress.run import RunDirectory
from evopress.search.starts import random_start
from evopress.testing import gguf_config, merging_tokenizer, pico_model, pico_tokenizer, random_model
from evopress.workspace import Workspace

BLOCKS = 11  # two digits in the last one's number
CHECKPOINTS = ("falcon", "gemma3_text", "gpt2", "llama")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16},
}


def workspace_of(loaded: LoadedModel, target: str, **options: Any) -> Workspace:
    """A depth run on a model that is in memory already."""
    config = resolve("none", application="depth", data="none.txt", dtype="float32", target=target, **options)
    made = Workspace(RunDirectory(Path(mkdtemp()), config), Observer())
    made.__dict__["loaded"] = loaded
    return made


def pico(architecture: str) -> LoadedModel:
    return LoadedModel(pico_model(architecture, blocks=BLOCKS, width=16), pico_tokenizer(), "none", False)


def pico_gguf(family: str) -> LoadedModel:
    config = gguf_config(family, width=64, blocks=BLOCKS, **FAMILIES[family])
    return LoadedModel(random_model(config), merging_tokenizer(), "none", False)


@cache
def sized(architecture: str, granularity: str, target: str = "transformers") -> tuple[Workspace, int, int]:
    """A run with some size, and the smallest and the largest that are possible, as the error for others says."""
    loaded = pico_gguf(architecture) if target == "llamacpp" else pico(architecture)
    with pytest.raises(BudgetError) as caught:
        _ = workspace_of(loaded, target, size="1GB", granularity=granularity).space
    low, high = map(int, re.findall(r"allow (\d+) to (\d+)", str(caught.value))[0])
    return workspace_of(loaded, target, size=(low + high) // 2, granularity=granularity), low, high


def check(run: tuple[Workspace, int, int], seed: int, share: float, slack: int) -> None:
    """The files of a random profile for a size fit into it and have the predicted bytes, almost those that count."""
    workspace, low, high = run
    chosen, size, out = FORMATS[workspace.config.format], round(low + share * (high - low)), Path(mkdtemp())
    constant = (low + high) // 2 - workspace.space.budget
    space = replace(workspace.space, budget=size - constant)
    profile = space.decode(random_start(space, Random(seed)))
    chosen.write(workspace.source, workspace.content(profile), out, lambda done, total: None)
    counted = constant + space.cost(profile)
    assert weight_bytes(out) == workspace.sizes(profile)["bytes"] <= counted <= size
    assert counted - weight_bytes(out) <= slack


shares, seeds = st.floats(0, 1), st.integers(0, 99)


@settings(max_examples=12)
@given(st.sampled_from(CHECKPOINTS), st.sampled_from(["block", "pair"]), seeds, shares)
def test_checkpoints_without_blocks_fit(architecture: str, granularity: str, seed: int, share: float) -> None:
    check(sized(architecture, granularity), seed, share, slack=10_000)  # digits of offsets in the header


@settings(max_examples=12)
@given(st.sampled_from(list(FAMILIES)), st.sampled_from(["block", "pair"]), seeds, shares)
def test_gguf_files_without_blocks_fit(family: str, granularity: str, seed: int, share: float) -> None:
    check(sized(family, granularity, "llamacpp"), seed, share, slack=64 + 100 + 2 * BLOCKS * 12)


@settings(max_examples=12)
@given(seeds, shares)
def test_gguf_files_without_attentions_and_mlps_fit(seed: int, share: float) -> None:
    stubs = BLOCKS * 3 * 32 * 64  # counted where a block lacks both
    check(sized("llama", "sublayer", "llamacpp"), seed, share, slack=stubs + 1000)


@pytest.mark.parametrize("target", ["transformers", "vllm", "llamacpp"])
def test_a_run_with_a_size_ends_within_it(small_other: dict[str, Any], tmp_path: Path, target: str) -> None:
    random_model(gguf_config("llama", width=64, blocks=4)).save_pretrained(tmp_path / "model")
    merging_tokenizer().save_pretrained(tmp_path / "model")
    del small_other["calibration_tokens"]
    about = small_other | {"model": str(tmp_path / "model"), "target": target, "dtype": "float32"}
    run = evopress.drop(out=tmp_path / "run", size="650kB", **about)
    assert 600_000 < weight_bytes(run.directory.export) <= 650_000
    assert run.evaluation["profiles"]["searched"]["bytes"] == weight_bytes(run.directory.export)
    command = (run.directory.export / "README.md").read_text()
    assert f"evopress drop {tmp_path / 'model'} --size 650000 --target {target} --preset quick" in command
    assert "--granularity" not in command


@pytest.mark.parametrize(
    ("loaded", "target", "words"),
    [
        (pico("llama"), "transformers", "only whole blocks are left out of them"),
        (pico_gguf("qwen2"), "llamacpp", "only whole blocks make them smaller; use --granularity block or pair"),
    ],
    ids=["checkpoint", "gguf"],
)
def test_halves_of_blocks_that_stay_in_the_files_are_refused(loaded: LoadedModel, target: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _ = workspace_of(loaded, target, size="1GB", granularity="sublayer").space


def test_a_block_has_to_stay() -> None:
    workspace, low, _ = sized("llama", "block", "llamacpp")
    costs = FORMATS["gguf"].costs(workspace.source)
    assert low == costs.constant + max(own["keep"] for own in costs.levels.values())


def test_a_size_says_the_budget_alone() -> None:
    with pytest.raises(ConfigError, match="leave it out where the budget is a size"):
        resolve("demo", size="100MB", application="depth", counts="bytes", target="vllm")
    with pytest.raises(ConfigError, match="a budget in bits is one of bits, not of depth"):
        resolve("demo", bits=3, application="depth")
