"""Packed checkpoints: sizes to the byte, levels bit for bit, and what cannot be held is refused before any work."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import evopress
from evopress import pipeline
from evopress.core.profile import DENSE, Profile
from evopress.errors import BudgetError, ConfigError, EvopressError, UnsupportedModel
from evopress.formats.format import Format
from evopress.formats.formats import FORMATS
from evopress.formats.gptq import pack_words
from evopress.formats.packed import PackedFormat
from evopress.formats.shards import weight_bytes
from evopress.formats.staging import staged
from evopress.formats.verification import Verification
from evopress.levels.grid import Grid
from evopress.run.directory import read_run, start_run
from evopress.run.observer import Observer
from evopress.search.starts.drawn import random_start
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace
from evopress.testing import write_pico_checkpoint

PACKED = [name for name, format in FORMATS.items() if isinstance(format, PackedFormat)]


def verified(format: Format, workspace: Workspace, profile: Profile, out: Path) -> Verification:
    """What the format's consumer makes of an export in `out`."""
    return format.verify(workspace.source, workspace.content(profile), out, workspace.searched(profile))


def opened(directory: Path, **options: Any) -> Workspace:
    """The workspace of a new run with a whole database."""
    config = resolve(
        **{"bits": 5, "method": "rtn", "symmetric": True, "search_tokens": 4096, "heldout_tokens": 256} | options
    )
    workspace = Workspace(start_run(directory / "run", config), Observer())
    pipeline.build(workspace)
    return workspace


def write(format: Format, workspace: Workspace, profile: Profile, out: Path) -> None:
    with staged(out, 0) as partial:
        format.write(workspace.source, workspace.content(profile), partial, lambda done, total: None)


@cache
def workspace_of(format: str, dtype: str, group_size: int, text: Path) -> Workspace:
    """Of a pico model whose linears have biases and whose shapes all formats like, with all levels of a format."""
    directory = Path(mkdtemp())
    write_pico_checkpoint(directory / "model", "qwen2", blocks=2, width=64)
    levels = (*FORMATS[format].widths, 16)  # type: ignore[attr-defined]
    about = {"model": str(directory / "model"), "data": str(text), "levels": levels, "dtype": dtype}
    return opened(directory, group_size=group_size, **about)


@settings(max_examples=12)
@given(
    st.sampled_from(PACKED), st.sampled_from(["float32", "bfloat16"]), st.sampled_from([0, 16]), st.randoms(), st.data()
)
def test_files_have_the_predicted_bytes_which_costs_never_understate(
    text: Path, format: str, dtype: str, group_size: int, rng: Any, data: Any
) -> None:
    own = 32 if format == "mlx" else group_size
    workspace, chosen = workspace_of(format, dtype, own, text), FORMATS[format]
    levels = [*workspace.config.compression.levels]  # type: ignore[union-attr]
    few = data.draw(st.lists(st.sampled_from(levels), min_size=1))
    profile = Profile.of({linear.name: rng.choice(few) for linear in workspace.map.linears})
    out = Path(mkdtemp()) / "out"
    write(chosen, workspace, profile, out)
    predicted = chosen.predicted_bytes(workspace.source, workspace.content(profile))
    assert weight_bytes(out) == predicted
    costs = chosen.costs(workspace.source)
    bound = costs.constant + sum(costs.levels[unit][level] for unit, level in profile.items())
    assert predicted <= bound <= predicted + 100 * len(profile)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("architecture", "group_size"), [("gemma2", 0), ("phi3", 16)])
def test_transformers_computes_with_the_searched_levels(
    text: Path, tmp_path: Path, architecture: str, group_size: int, dtype: str
) -> None:
    write_pico_checkpoint(tmp_path / "model", architecture, blocks=2)
    about = {"model": str(tmp_path / "model"), "data": str(text), "dtype": dtype, "levels": (2, 3, 4, 5, 6, 7, 8, 16)}
    workspace, chosen = opened(tmp_path, group_size=group_size, **about), FORMATS["compressed-tensors"]
    names = [linear.name for linear in workspace.map.linears]
    profile = Profile.of({name: "2345678"[i % 7] if i % 5 else DENSE for i, name in enumerate(names)})
    write(chosen, workspace, profile, tmp_path / "out")
    assert (
        chosen.verify(
            workspace.source, workspace.content(profile), tmp_path / "out", workspace.searched(profile)
        ).difference
        == 0
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    model(torch.arange(4)[None])
    assert model.dtype == getattr(torch, dtype)
    for name, level in profile.items():
        own = workspace.loaded.model.get_submodule(name).weight
        wanted = own if level == DENSE else workspace.database.dense(name, level, own.dtype)
        assert torch.equal(model.get_submodule(name).weight, wanted)


def dequantized(weights: dict[str, torch.Tensor], name: str, bits: int) -> torch.Tensor:
    """A weight (outputs, inputs) as the GPTQ format defines it, number by number."""
    words, zeros, scales = (weights[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
    group, each = weights[f"{name}.g_idx"], 32 // bits
    result = torch.empty(scales.shape[1], len(group))
    for column in range(result.shape[1]):
        for row in range(result.shape[0]):
            code = int(words[column // each, row]) >> bits * (column % each) & 2**bits - 1
            zero = (int(zeros[group[column], row // each]) >> bits * (row % each) & 2**bits - 1) + 1
            result[row, column] = (code - zero) * float(scales[group[column], row])
    return result


def test_gptq_decoded_as_documented_gives_the_searched_levels(text: Path, tmp_path: Path) -> None:
    workspace, chosen = workspace_of("gptq", "float32", 16, text), FORMATS["gptq"]
    names = [linear.name for linear in workspace.map.linears]
    profile = Profile.of({name: ("4", "8", DENSE)[i % 3] for i, name in enumerate(names)})
    write(chosen, workspace, profile, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    for name, level in list(profile.items())[:4]:
        if level == DENSE:
            assert torch.equal(weights[f"{name}.weight"], workspace.loaded.model.get_submodule(name).weight)
        else:
            wanted = workspace.database.dense(name, level, torch.float32)
            assert torch.equal(dequantized(weights, name, int(level)), wanted)


def width_of(config: dict[str, Any], layer: str) -> int:
    """Bits of a layer as GPTQModel and vLLM find them: the first rule that matches counts; 16 is left as it is."""
    for pattern, rule in config["dynamic"].items():
        if pattern.startswith("-:") and re.match(pattern.removeprefix("-:"), layer):
            return 16
        if re.match(pattern.removeprefix("+:"), layer):
            return int(rule.get("bits", config["bits"]))
    return int(config["bits"])


@given(st.randoms())
def test_gptq_rules_give_each_layer_its_width_by_both_names(rng: Any) -> None:
    grids = {
        f"model.layers.{block}.{name}": rng.choice([Grid(4, 32, True), Grid(8, 32, True), None])
        for block in (1, 11)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    }
    if rng.random() < 0.5:
        for part in "kv":
            grids[f"model.layers.1.self_attn.{part}_proj"] = grids["model.layers.1.self_attn.q_proj"]
    config = FORMATS["gptq"].configuration(grids)  # type: ignore[attr-defined]
    for name, grid in grids.items():
        assert width_of(config, name) == (grid.bits if grid else 16)
    own = {grids[f"model.layers.1.self_attn.{part}_proj"] for part in "qkv"}
    if len(own) == 1:
        grid = own.pop()
        assert width_of(config, "model.layers.1.self_attn.qkv_proj") == (grid.bits if grid else 16)


def test_words_hold_the_highest_codes() -> None:
    assert pack_words(torch.full((4, 1), 255, dtype=torch.uint8), 8).tolist() == [[-1]]


@settings(max_examples=8)
@given(st.sampled_from(["vllm", "transformers"]), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_size_is_never_exceeded(text: Path, target: str, share: float, seed: int) -> None:
    workspace = sized(target, text)
    chosen, out, space = FORMATS[workspace.config.format], Path(mkdtemp()) / "out", workspace.space
    space = replace(space, budget=round(space.lowest + share * (space.highest - space.lowest)))
    profile = space.decode(random_start(space, Random(seed)))
    write(chosen, workspace, profile, out)
    constant = chosen.costs(workspace.source).constant
    assert constant + space.cost(profile) - 100 * len(profile) <= weight_bytes(out) <= constant + space.budget


@cache
def sized(target: str, text: Path) -> Workspace:
    directory = Path(mkdtemp())
    write_pico_checkpoint(directory / "model", "llama", blocks=2)
    about = {"model": str(directory / "model"), "data": str(text), "target": target, "group_size": 0}
    return opened(directory, bits=None, size="60kB" if target == "vllm" else "50 kB", **about)


def test_a_run_with_a_size_ends_within_it(small: dict[str, Any], tmp_path: Path) -> None:
    del small["bits"], small["levels"], small["group_size"]
    run = evopress.quantize(out=tmp_path / "run", size="90kB", target="vllm", group_size=0, **small)
    assert 88_000 < weight_bytes(run.directory.export) <= 90_000
    assert run.evaluation["profiles"]["searched"]["bytes"] == weight_bytes(run.directory.export)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": "1kB", "target": "vllm"}, BudgetError, "the levels allow"),
        ({"size": "1TB", "target": "vllm"}, BudgetError, "the levels allow"),
        ({"size": "60kB"}, ConfigError, "--target"),
        ({"size": "big", "target": "vllm"}, ConfigError, "100MB"),
    ],
    ids=["small", "large", "no target", "no size"],
)
def test_sizes_that_cannot_be_met(
    small_other: dict[str, Any], tmp_path: Path, options: dict[str, Any], error: type[EvopressError], words: str
) -> None:
    with pytest.raises(error, match=words):
        evopress.quantize(out=tmp_path / "run", group_size=0, **small_other, **options)
    assert not (tmp_path / "run" / "database").exists()


def test_what_a_format_cannot_hold_is_refused_before_any_work(
    small: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    write_pico_checkpoint(tmp_path / "model", "gpt2")
    del small["levels"]
    with pytest.raises(UnsupportedModel, match="plain linear layers"):
        evopress.quantize(
            out=tmp_path / "run", target="transformers", **small | {"model": str(tmp_path / "model"), "group_size": 0}
        )
    assert not (tmp_path / "run" / "database").exists()


@pytest.mark.parametrize("format", PACKED)
def test_asymmetric_grids_are_refused(small: dict[str, Any], tmp_path: Path, format: str) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small | {"generations": 0})
    workspace = Workspace(read_run(run.directory.path), Observer())
    with pytest.raises(ConfigError, match="symmetric grids only"):
        pipeline.export(workspace, format=format)
    assert not (tmp_path / "run" / f"export-{format}").exists()


def test_groups_that_leave_a_rest_are_refused(text: Path, tmp_path: Path) -> None:
    write_pico_checkpoint(tmp_path / "model", "llama", blocks=2)
    about = {"model": str(tmp_path / "model"), "data": str(text), "group_size": 32}
    with pytest.raises(ConfigError, match="does not divide the 48 inputs"):
        FORMATS["compressed-tensors"].check(opened(tmp_path / "run", **about).source)
    with pytest.raises(ConfigError, match="does not divide the 48 inputs"):
        opened(tmp_path / "other", target="vllm", **about)
