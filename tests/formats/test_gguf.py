"""GGUF files: the bytes of the levels, sizes known beforehand, and logits in transformers as the search saw them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.ggml_types import fitting_type, padded, row_bytes
from evopress.core.profile import Profile
from evopress.database.build import build_database
from evopress.database.manifest import read_manifest
from evopress.database.methods import GgmlQuantization
from evopress.errors import DatabaseError, ProfileError, UnsupportedModel
from evopress.formats.gguf import (
    export_gguf,
    gguf_names,
    plan_gguf,
    predicted_bytes,
)
from evopress.formats.gguf_levels import level_packs, level_types
from evopress.formats.gguf_metadata import rope_factors
from evopress.levels.ggml import Ggml, pack_ggml
from evopress.models import LoadedModel, Runner, describe, load_model
from evopress.models.load import silence
from evopress.testing import gguf_config, merging_tokenizer, random_model

VOCABULARY = 320
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
# Where transformers reads a number from GGUF files never, but takes its default, that default.
EXTRA: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16},
    "gemma3_text": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16},
    "mistral": {"sliding_window": 64},
    "qwen3": {"head_dim": 128},
}
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ3_S", "Q4_0", "Q5_1", "F16", "BF16")


def loaded(architecture: str = "llama", width: int = 256, blocks: int = 2, **options: Any) -> LoadedModel:
    config = gguf_config(architecture, width=width, blocks=blocks, **EXTRA.get(architecture, {}) | options)
    return LoadedModel(random_model(config), merging_tokenizer(), f"pico/{architecture}", False)


def mixed_types(model: Any, seed: int = 0) -> dict[str, str]:
    """A random type for every weight matrix, embeddings and head included, as far as its width allows."""
    rng = random.Random(seed)
    types = {linear.view.parameter: linear.view.shape[1] for linear in describe(model).linears}
    types["model.embed_tokens.weight"] = model.config.hidden_size
    if not model.config.tie_word_embeddings:
        types["lm_head.weight"] = model.config.hidden_size
    return {name: fitting_type(rng.choice(TYPES), columns) for name, columns in types.items()}


def packs_of(model: Any, types: dict[str, str]) -> dict[str, Callable[[], Ggml]]:
    packed = {name: pack_ggml(model.get_parameter(name), kind) for name, kind in types.items()}
    return {name: (lambda matrix=matrix: matrix) for name, matrix in packed.items()}


def assembled(model: Any, packs: dict[str, Callable[[], Ggml]]) -> Any:
    """A copy of the model with dequantized weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, read in packs.items():
            other.get_parameter(name).copy_(read().dequantize())
    return other


def reload(file: Path) -> Any:
    with silence():
        return transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()


def logits(model: Any, length: int = 40) -> torch.Tensor:
    ids = torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(input_ids=ids).logits


def write(file: Path, source: LoadedModel, types: dict[str, str]) -> dict[str, Callable[[], Ggml]]:
    packs = packs_of(source.model, types)
    export_gguf(file, plan_gguf(source, types), packs)
    return packs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [64, 256])
def test_transformers_computes_the_searched_logits(tmp_path: Path, architecture: str, width: int) -> None:
    source = loaded(architecture, width)
    types = mixed_types(source.model)
    packs = write(tmp_path / "model.gguf", source, types)
    ours, theirs = logits(assembled(source.model, packs)), logits(reload(tmp_path / "model.gguf"))
    if "gemma" in architecture:  # whose norms go to the file plus one and come back less one, each rounded to fp32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, logits(source.model), atol=1e-2)


def test_every_tensor_is_the_bytes_of_its_level(tmp_path: Path) -> None:
    source = loaded()
    types = mixed_types(source.model)
    packs = write(tmp_path / "model.gguf", source, types)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    names = gguf_names(source)
    assert set(names.values()) == set(stored)
    for parameter, name in names.items():
        found = stored[name]
        values = gguf.quants.dequantize(found.data, found.tensor_type)
        value = source.model.get_parameter(parameter).detach()
        if parameter not in types:
            assert found.tensor_type.name == "F32"
            assert np.array_equal(values, value.numpy())
            continue
        assert found.tensor_type.name == types[parameter]
        expected = packs[parameter]().data.numpy()
        raw = found.data.view(np.uint8)
        if "q_proj" in parameter or "k_proj" in parameter:
            heads = 4 if "q_proj" in parameter else 2
            raw = raw.reshape(heads, -1, 2, raw.shape[-1]).swapaxes(1, 2)  # neighbours back to halves
        assert np.array_equal(raw.reshape(expected.shape), expected)


@pytest.fixture(scope="module")
def small() -> LoadedModel:
    return loaded(width=64, blocks=1)


@settings(max_examples=15)
@given(data=st.data())
def test_the_size_is_the_predicted_one(tmp_path_factory: Any, small: LoadedModel, data: st.DataObject) -> None:
    kinds = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "F16", "BF16", "F32")
    matrices = [name for name, value in small.model.state_dict().items() if value.ndim == 2]
    types = data.draw(st.fixed_dictionaries({}, optional={name: st.sampled_from(kinds) for name in matrices}))
    file = tmp_path_factory.mktemp("sizes") / "model.gguf"
    write(file, small, types)
    plan = plan_gguf(small, types)
    assert file.stat().st_size == predicted_bytes(plan)
    dense = predicted_bytes(plan_gguf(small, {}))
    saved = [
        padded(len(value) * value.shape[1] * 4) - padded(len(value) * row_bytes(types[name], value.shape[1]))
        for name, value in small.model.state_dict().items()
        if name in types
    ]
    assert predicted_bytes(plan) == dense - sum(saved)  # what a level costs does not depend on the others


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_of_all_architectures(tmp_path: Path, architecture: str) -> None:
    source = loaded(architecture)
    types = mixed_types(source.model, seed=1)
    write(tmp_path / "a.gguf", source, types)
    assert (tmp_path / "a.gguf").stat().st_size == predicted_bytes(plan_gguf(source, types))


def fields(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    return {field.name: (field.types, field.contents()) for field in reader.fields.values()}


def test_a_gguf_model_keeps_its_metadata_and_what_is_not_replaced(tmp_path: Path) -> None:
    first = loaded()
    write(tmp_path / "first.gguf", first, mixed_types(first.model))
    second = load_model(str(tmp_path / "first.gguf"), dtype=torch.float32)
    types = {linear.view.parameter: "Q8_0" for linear in describe(second.model).linears[:4]}
    packs = write(tmp_path / "second.gguf", second, types)
    assert fields(tmp_path / "second.gguf") == fields(tmp_path / "first.gguf")
    before, after = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("first", "second"))
    replaced = {gguf_names(second)[name] for name in types}
    assert {tensor.name for tensor in before} == {tensor.name for tensor in after}
    old = {tensor.name: tensor for tensor in before}
    for tensor in after:
        if tensor.name in replaced:
            assert tensor.tensor_type.name == "Q8_0"
        else:
            assert tensor.tensor_type == old[tensor.name].tensor_type
            assert tensor.data.tobytes() == old[tensor.name].data.tobytes()
    assert (tmp_path / "second.gguf").stat().st_size == predicted_bytes(plan_gguf(second, types))
    assert torch.equal(logits(reload(tmp_path / "second.gguf")), logits(assembled(second.model, packs)))


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    source = loaded(width=64, blocks=1)
    write(tmp_path / "model.gguf", source, {})
    again = load_model(str(tmp_path / "model.gguf"), dtype=torch.float32).tokenizer
    for text in ("the cat sat on the mat", "Rain, 2024!\n  and more", "zażółć"):
        assert again.encode(text, add_special_tokens=False) == source.tokenizer.encode(text, add_special_tokens=False)
    assert again.eos_token_id == source.tokenizer.eos_token_id


def test_a_tied_head_is_left_out(tmp_path: Path) -> None:
    source = loaded(width=64, tie_word_embeddings=True)
    types = mixed_types(source.model)
    packs = write(tmp_path / "model.gguf", source, types)
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert torch.equal(logits(assembled(source.model, packs)), logits(reload(tmp_path / "model.gguf")))
    with pytest.raises(ProfileError, match=r"lm_head.weight is no stored weight matrix of the model; a tied head"):
        plan_gguf(source, {"lm_head.weight": "Q8_0"})


def test_biases_of_interleaved_rows_move_along(tmp_path: Path) -> None:
    source = loaded(width=64, attention_bias=True)
    packs = write(tmp_path / "model.gguf", source, mixed_types(source.model))
    bias = source.model.model.layers[0].self_attn.q_proj.bias.detach().numpy()
    found = next(t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors if t.name == "blk.0.attn_q.bias")
    assert np.array_equal(found.data.reshape(4, 8, 2).swapaxes(1, 2).reshape(-1), bias)
    assert len(packs)


def test_a_database_and_a_profile_become_a_file(tmp_path: Path) -> None:
    source = loaded()
    runner = Runner(source.model, describe(source.model))
    ids = [torch.arange(16) * step % VOCABULARY for step in range(1, 9)]
    method = GgmlQuantization(types=("Q3_K", "Q4_K", "Q6_K"))
    database = build_database(tmp_path / "db", runner, method, ids, {})
    rng = random.Random(1)
    manifest = read_manifest(tmp_path / "db")
    profile = Profile.of({name: rng.choice(unit.levels).name for name, unit in manifest.units.items()})
    plan = plan_gguf(source, level_types(profile, database))
    seen: list[tuple[int, int]] = []
    packs = level_packs(profile, database)
    export_gguf(tmp_path / "out" / "m.gguf", plan, packs, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(plan.tensors)) for done in range(1, len(plan.tensors) + 1)]
    expected = logits(assembled(source.model, dict(packs)))
    assert torch.equal(logits(reload(tmp_path / "out" / "m.gguf")), expected)


@pytest.mark.parametrize("moment", range(0, 8, 3))
def test_an_interrupted_export_leaves_what_was_there(tmp_path: Path, small: LoadedModel, moment: int) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("old")

    def stop(done: int, total: int) -> None:
        if done > moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gguf(file, plan_gguf(small, {}), {}, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert file.read_text() == "old"


def test_levels_that_are_not_as_planned_are_refused(tmp_path: Path, small: LoadedModel) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    plan = plan_gguf(small, {name: "Q4_0"})
    with pytest.raises(DatabaseError, match=f"the plan stores {name} as Q4_0, but nothing gives its level"):
        export_gguf(tmp_path / "a.gguf", plan, {})
    with pytest.raises(DatabaseError, match=r"is Q8_0 \(128, 64\), planned is Q4_0 \(128, 64\)"):
        export_gguf(tmp_path / "a.gguf", plan, packs_of(small.model, {name: "Q8_0"}))
    assert not list(tmp_path.iterdir())


def test_context_ends_at_a_window_that_llama_cpp_does_not_know() -> None:
    def entry(source: LoadedModel, key: str) -> Any:
        return {entry.key: entry.value for entry in plan_gguf(source, {}).metadata}.get(key)

    assert entry(loaded("mistral", 64), "llama.context_length") == 64
    assert entry(loaded("mistral", 64, sliding_window=None), "llama.context_length") == 256
    gemma = loaded("gemma2", 64, 4)
    assert entry(gemma, "gemma2.context_length") == 256
    assert entry(gemma, "gemma2.attention.sliding_window_pattern") == 2


def test_llama3_frequencies_are_those_of_transformers() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    source = loaded(width=256, rope_parameters=rope)
    plain = loaded(width=256, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    factors = rope_factors(source.model.config)
    assert factors is not None
    scaled = plain.model.model.rotary_emb.inv_freq / factors
    torch.testing.assert_close(scaled, source.model.model.rotary_emb.inv_freq)
    assert 1 < len(factors.unique()) < len(factors)
    assert any(tensor.name == "rope_freqs.weight" for tensor in plan_gguf(source, {}).tensors)


def refusals() -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "gpt2", {}, "gpt2 models cannot be written as GGUF, only gemma2, "
    yield "llama", {"hidden_act": "gelu"}, "the activation is 'gelu', llama.cpp computes 'silu' in llama"
    yield "gemma2", {"query_pre_attn_scalar": 99}, "scales attention by the head width 256"
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    yield "gemma2", {"num_hidden_layers": 3, "layer_types": kinds}, r"full attention are \[0, 2\], llama.cpp knows only"
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    yield "llama", {"rope_parameters": yarn}, "rotary embeddings of type 'yarn' cannot be written"


@pytest.mark.parametrize(("architecture", "options", "message"), list(refusals()))
def test_what_llama_cpp_computes_otherwise_is_refused(architecture: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        plan_gguf(loaded(architecture, **options), {})
