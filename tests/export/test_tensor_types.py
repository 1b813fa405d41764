"""The file of llama-quantize: what is written is read back, and its rules mean what they mean to llama-quantize."""

from __future__ import annotations

import random
import re

import pytest
import torch

from evopress.compress.tensor_types import parse_tensor_types, read_tensor_types, write_tensor_types
from evopress.errors import ConfigError, ProfileError
from evopress.export.gguf import gguf_names
from evopress.ggml_types import fitting_types
from evopress.models import LoadedModel, ModelMap, describe
from evopress.profile import Profile
from evopress.testing import pico_model

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0", "MXFP4", "IQ4_NL")


def read(text: str, model_map: ModelMap, names: dict[str, str], **options: str) -> Profile:
    """The profile of a file for a model whose parameters have these names in GGUF."""
    linears = model_map.linears
    return read_tensor_types(
        text,
        {linear.name: names[linear.view.parameter] for linear in linears},
        {linear.name: linear.view.shape[1] for linear in linears},
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def model() -> tuple[ModelMap, dict[str, str]]:
    live = pico_model("llama", blocks=12, width=256)
    return describe(live), gguf_names(LoadedModel(live, None, "pico", False))


def random_profile(model_map: ModelMap, seed: int) -> Profile:
    rng = random.Random(seed)
    return Profile.of(
        {linear.name: rng.choice(fitting_types(TYPES, linear.view.shape[1])) for linear in model_map.linears}
    )


def types_of(profile: Profile, model_map: ModelMap) -> dict[str, str]:
    return {linear.view.parameter: profile[linear.name] for linear in model_map.linears}


@pytest.mark.parametrize("seed", range(5))
def test_a_profile_goes_out_and_comes_back(model: tuple[ModelMap, dict[str, str]], seed: int) -> None:
    model_map, names = model
    profile = random_profile(model_map, seed)
    text = write_tensor_types(types_of(profile, model_map), names)
    assert read(text, model_map, names) == profile


def test_every_line_matches_one_tensor_alone(model: tuple[ModelMap, dict[str, str]]) -> None:
    model_map, names = model
    text = write_tensor_types(types_of(random_profile(model_map, 0), model_map), names)
    lines = text.splitlines()
    assert len(lines) == len(model_map.linears)
    for line, linear in zip(lines, model_map.linears, strict=True):
        pattern = line.split("=")[0]
        assert [name for name in names.values() if re.search(pattern, name)] == [names[linear.view.parameter]]
    assert re.fullmatch(r"\^blk\\\.0\\\.attn_q\\\.weight\$=[a-z0-9_]+", lines[0])


def test_the_first_rule_that_is_found_decides(model: tuple[ModelMap, dict[str, str]]) -> None:
    model_map, names = model
    text = r"blk\.(0|11)\..*=Q8_0 attn_v=q6_K" + "\n\nattn=q4_k\tffn=Q3_K"
    profile = read(text, model_map, names)
    assert profile["model.layers.0.self_attn.v_proj"] == profile["model.layers.11.mlp.up_proj"] == "Q8_0"
    assert profile["model.layers.1.self_attn.v_proj"] == "Q6_K"
    assert profile["model.layers.10.self_attn.q_proj"] == "Q4_K"
    assert profile["model.layers.1.mlp.up_proj"] == "Q3_K"
    assert profile["model.layers.1.mlp.down_proj"] == "Q4_0"  # 96 columns do not hold a block of Q3_K


def test_units_without_a_rule_get_the_default(model: tuple[ModelMap, dict[str, str]]) -> None:
    model_map, names = model
    profile = read("attn_v=q8_0", model_map, names, default="Q2_K")
    assert profile["model.layers.3.self_attn.q_proj"] == "Q2_K"
    with pytest.raises(ProfileError, match=r"no rule of the file of tensor types matches blk\.0\.attn_q\.weight"):
        read("attn_v=q8_0", model_map, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_v", "'attn_v' in the file of tensor types is not pattern=type"),
        ("=q8_0", "'=q8_0' in the file of tensor types is not pattern=type"),
        ("attn_v=q7", "'attn_v=q7' in the file of tensor types names no ggml type, must be one of iq1_s, "),
        ("attn_v(=q8_0", "is no regular expression"),
    ],
)
def test_words_that_are_no_rules_are_named(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)):
        parse_tensor_types(text)


def test_a_type_that_no_fallback_saves_is_refused() -> None:
    live = pico_model("llama", width=48)
    names = gguf_names(LoadedModel(live, None, "pico", False))
    with torch.no_grad(), pytest.raises(ConfigError, match="Q4_0 does not fit 48 columns"):
        read(".=q4_0", describe(live), names)
