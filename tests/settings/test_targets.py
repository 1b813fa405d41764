"""What targets allow, and that no search for one leaves it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evopress
from evopress import pipeline
from evopress.core.profile import Level, Profile, Unit, tie
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ConfigError, ProfileError
from evopress.models import ModelMap, describe
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.search.baselines.knapsack import knapsack
from evopress.search.moves.mutation import bands, equal_switches, free_switches, mixed, roles
from evopress.search.starts.drawn import random_start
from evopress.settings.resolve import resolve
from evopress.settings.targets import TARGETS
from evopress.steps.compare import compare
from evopress.steps.workspace import Workspace
from evopress.testing import ARCHITECTURES, pico_model

VLLM = TARGETS["vllm"]
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Last parts of the names of layers that vLLM runs as one (`packed_modules_mapping` of its models)."""


@cache
def mapped(architecture: str) -> ModelMap:
    return describe(pico_model(architecture, blocks=2))


def tied_space(architecture: str, average: float, exchange: Any) -> SearchSpace:
    def unit(linear: Any) -> Unit:
        size = linear.view.shape[0] * linear.view.shape[1]
        return Unit(
            linear.name, linear.block, linear.role, size, tuple(Level(name, int(name) * size) for name in VLLM.levels)
        )

    groups = VLLM.ties(mapped(architecture).linears)
    return make_space([tie([unit(linear) for linear in group]) for group in groups], average=average, exchange=exchange)


@settings(max_examples=40)
@given(st.sampled_from(ARCHITECTURES), st.integers(40, 160), st.sampled_from(["any", "size"]), st.integers(0, 99))
def test_no_profile_that_a_search_for_vllm_makes_splits_a_fused_layer(
    architecture: str, tenths: int, exchange: Any, seed: int
) -> None:
    space, rng = tied_space(architecture, tenths / 10, exchange), Random(seed)
    parent = random_start(space, rng)
    errors = {name: {level: rng.random() for level in VLLM.levels} for name in space.named}
    found = [parent, space.encode(knapsack(space, errors))]
    for mutate in (equal_switches, free_switches, bands, roles, mixed(0.5)):
        found += [child for child in (mutate(space, parent, rng) for _ in range(3)) if child is not None]
    names = {linear.name for linear in mapped(architecture).linears}
    for profile in map(space.decode, found):
        assert set(profile.names) == names
        levels = dict(profile.items())
        for name in names:
            module, _, last = name.rpartition(".")
            for parts in FUSED:
                if last in parts:
                    assert {levels[f"{module}.{part}"] for part in parts} == {levels[name]}


@pytest.mark.parametrize("architecture", ["falcon", "gpt2", "gpt_neox", "phi3"])
def test_projections_that_the_model_stores_fused_are_tied_to_nothing(architecture: str) -> None:
    assert all(len(group) == 1 for group in VLLM.ties(mapped(architecture).linears))


@pytest.mark.parametrize(
    ("target", "asked", "message"),
    [
        (
            "vllm",
            "each",
            "vllm runs all experts of a layer at one level, which --experts each would part; use --experts layer",
        ),
        ("vllm", "matrix", "--experts matrix would part; use --experts layer"),
        ("llamacpp", "each", "a matrix of all experts of a layer at one level, .* use --experts matrix"),
    ],
)
def test_experts_that_a_runtime_runs_at_one_level_are_not_parted(target: str, asked: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("demo", target=target, bpw=6, experts=asked)
    for coarse in ("layer", TARGETS[target].experts):
        resolve("demo", target=target, bpw=6, experts=coarse)


def test_transformers_fuses_nothing() -> None:
    assert all(len(group) == 1 for group in TARGETS["transformers"].ties(mapped("llama").linears))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_decides_the_defaults(name: str) -> None:
    target, config = TARGETS[name], resolve("demo", bits=5, target=name)
    assert config.compression.levels == target.defaults("bits")["levels"]
    assert config.compression.symmetric == target.symmetric
    assert config.format == target.formats["bits"]
    assert resolve("demo", fraction=0.5, target=name).format == target.formats["depth"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "tensorrt"}, ("tensorrt", "vllm", "transformers")),
        ({"target": "vllm", "levels": (3, 4)}, ("level 3", "4, 8, 16")),
        ({"target": "vllm", "symmetric": False}, ("symmetric",)),
        ({"target": "transformers", "group_size": 48}, ("48", "32, 64, 128, 0")),
        ({"target": "vllm", "embeddings": True}, ("embedding",)),
    ],
    ids=["name", "level", "zero points", "group", "embeddings"],
)
def test_what_a_runtime_cannot_run_is_refused_before_any_work(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("demo", **{"bits": 5} | options)
    assert all(word in str(caught.value) for word in words)


def test_a_run_for_vllm_ties_in_all_that_it_does(small: dict[str, Any], tmp_path: Path) -> None:
    small |= {"bits": 6, "levels": (4, 8, 16), "group_size": 0}
    run = evopress.quantize(out=tmp_path / "run", target="vllm", **small)
    space = json.loads(run.directory.space.read_text())
    assert [unit["name"] for unit in space["units"]] == list(run.profile.names)
    names = [[space["units"][place]["name"].rpartition(".")[2] for place in tied] for tied in space["ties"]]
    assert names == 3 * [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]
    assert sorted(place for group in space["groups"] for place in group) == list(range(21))
    workspace = Workspace(read_run(run.directory.path), Observer())
    rows = compare(workspace, seeds=1)["profiles"]
    assert {"uniform", "dp", "best-of"} <= rows.keys()
    parted = Profile.of(dict.fromkeys(run.profile.names, "8") | {"model.layers.0.self_attn.k_proj": "4"})
    (tmp_path / "parted.txt").write_text(parted.to_text())
    with pytest.raises(ProfileError, match="the run's target fuses them"):
        pipeline.export(workspace, profile=tmp_path / "parted.txt")


def test_vllm_drops_whole_blocks_only() -> None:
    assert resolve("demo", fraction=0.5, target="vllm").compression.granularity == "block"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="block or pair"):
        resolve("demo", fraction=0.5, target="vllm", granularity="sublayer")
