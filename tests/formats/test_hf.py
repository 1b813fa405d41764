"""Checkpoints without blocks, with zeros, of every architecture: what transformers loads is the searched model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from evopress.core.profile import Profile
from evopress.formats.formats import FORMATS
from evopress.formats.shards import weight_bytes
from evopress.models import LoadedModel, describe, dropped, find_sublayers
from evopress.run.directory import RunDirectory
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace
from evopress.testing import ARCHITECTURES, WINDOW, pico_model, pico_tokenizer, random_model

BLOCKS = 5
HF = FORMATS["hf"]


class Notes(Observer):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def workspace_of(directory: Path, model: Any) -> Workspace:
    """A depth run on a model that is in memory already."""
    config = resolve("none", fraction=0.4, data="none.txt", dtype="float32")
    made = Workspace(RunDirectory(directory, config), Notes())
    made.__dict__["loaded"] = LoadedModel(model, pico_tokenizer(), "none", False)
    return made


def profile_of(workspace: Workspace, gone: list[int]) -> Profile:
    """Sub-layers (attention and MLP of each block, by turns) that are dropped."""
    names = [sublayer.name for sublayer in find_sublayers(workspace.loaded.model, describe(workspace.loaded.model))]
    return Profile.of({name: "drop" if place in gone else "keep" for place, name in enumerate(names)})


def export(workspace: Workspace, profile: Profile, out: Path) -> Path:
    """Write a profile without a run around it."""
    out.mkdir()
    HF.write(workspace.source, workspace.content(profile), out, lambda done, total: None)
    (out / "config.json.partial").rename(out / "config.json")
    return out


def check(workspace: Workspace, gone: list[int], out: Path) -> nn.Module:
    """What is loaded answers bit for bit like the model that bypasses the sub-layers, and as predicted in bytes."""
    profile = profile_of(workspace, gone)
    export(workspace, profile, out)
    assert weight_bytes(out) == HF.predicted_bytes(workspace.source, workspace.content(profile))
    loaded: Any = AutoModelForCausalLM.from_pretrained(out).eval()
    model = workspace.loaded.model
    sublayers = find_sublayers(model, describe(model))
    ids = torch.randint(1, 96, (2, 2 * WINDOW + 3), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"max_new_tokens": WINDOW, "min_new_tokens": WINDOW, "do_sample": False}
    with torch.no_grad():
        with dropped(model, [sublayers[place] for place in gone]):
            expected, text = model(ids).logits, model.generate(ids[:, : WINDOW + 1], **options)
        assert torch.equal(loaded(ids).logits, expected)
        assert torch.equal(loaded.generate(ids[:, : WINDOW + 1], **options), text)
        assert torch.equal(loaded.generate(ids[:, : WINDOW + 1], use_cache=False, **options), text)
    sizes = workspace.sizes(profile)
    stored = {id(parameter): parameter for parameter in loaded.parameters()}.values()
    assert sizes["bytes"] == sum(parameter.nbytes for parameter in stored)
    return loaded


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whole_blocks_are_left_out_and_halves_are_zero(architecture: str, tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, pico_model(architecture, blocks=BLOCKS))
    loaded = check(workspace, [1, 2, 3, 6, 7, 8], tmp_path / "out")  # blocks 1 and 3, an MLP, an attention
    mapped = describe(loaded)
    assert mapped.n_blocks == BLOCKS - 2
    assert workspace.family.left_out(profile_of(workspace, [1, 2, 3, 6, 7, 8])) == (1, 3)
    zeros = [linear.block for linear in mapped.linears if not loaded.get_parameter(linear.view.parameter).any()]
    assert zeros == [0, 2]


@settings(max_examples=12)
@given(gone=st.sets(st.integers(0, 5)), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_profile_has_the_predicted_bytes(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int], dtype: torch.dtype
) -> None:
    directory = tmp_path_factory.mktemp("depth")
    workspace = workspace_of(directory, pico_model("gpt2", width=16).to(dtype))
    profile = profile_of(workspace, sorted(gone))
    export(workspace, profile, directory / "out")
    assert weight_bytes(directory / "out") == HF.predicted_bytes(workspace.source, workspace.content(profile))
    assert weight_bytes(directory / "out") - workspace.sizes(profile)["bytes"] < 8000  # headers


def test_everything_dropped_leaves_one_block_of_zeros(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, pico_model("llama", blocks=BLOCKS))
    loaded = check(workspace, list(range(2 * BLOCKS)), tmp_path / "out")
    assert describe(loaded).n_blocks == 1


def test_blocks_that_depend_on_their_number_stay_and_add_zero(tmp_path: Path) -> None:
    config = pico_model("gpt2", blocks=BLOCKS).config
    config.scale_attn_by_inverse_layer_idx = True
    workspace = workspace_of(tmp_path, random_model(config))
    loaded = check(workspace, [2, 3], tmp_path / "out")
    assert describe(loaded).n_blocks == BLOCKS
    assert workspace.observer.lines == [
        "dropped blocks stay in the checkpoint and add zero, because its blocks depend on their number: scaling of "
        "transformer.h.1.attn would change"
    ]


def test_the_configuration_says_what_runtimes_read(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, pico_model("gemma3_text", blocks=BLOCKS))
    out = export(workspace, profile_of(workspace, [0, 1, 6, 7]), tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == BLOCKS - 2
    assert config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert workspace.loaded.model.config.num_hidden_layers == BLOCKS
