"""GGUF files without some blocks, attentions and MLPs: what remains computes what the search saw."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evopress.core.profile import DROP, KEEP
from evopress.errors import UnsupportedModel
from evopress.formats.gguf import GgufPlan, export_gguf, plan_gguf, predicted_bytes
from evopress.formats.gguf_depth import STUB, drop_sublayers
from evopress.formats.gguf_metadata import KeyValue
from evopress.levels.ggml import pack_ggml
from evopress.models import LoadedModel, describe, find_sublayers
from evopress.models.bypass import bypass_slots
from evopress.models.load import silence
from evopress.testing import pico_model, pico_tokenizer, random_model

BLOCKS = 5


def loaded(architecture: str = "llama", blocks: int = BLOCKS) -> LoadedModel:
    model = pico_model(architecture, width=64, blocks=blocks)
    return LoadedModel(model, pico_tokenizer(), "pico", False)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(16).view(2, 8) * 5 % 96, use_cache=False).logits


def bypassed(model: Any, attention: set[int], mlp: set[int]) -> torch.Tensor:
    """Logits of the live model without these sub-layers, by the way that the search takes."""
    gone = {"attn": attention, "mlp": mlp}
    slots = {s.name: s for own in bypass_slots(model, find_sublayers(model, describe(model)), "sublayer") for s in own}
    for slot in slots.values():
        block, kind = slot.name.split(".")[-2:]
        slot.apply(DROP if int(block) in gone[kind] else KEEP)
    found = logits(model)
    for slot in slots.values():
        slot.apply(None)
    return found


def write(file: Path, source: LoadedModel, attention: set[int], mlp: set[int]) -> GgufPlan:
    plan = drop_sublayers(plan_gguf(source, {}), attention=attention, mlp=mlp)
    export_gguf(file, plan, {})
    assert file.stat().st_size == predicted_bytes(plan)
    return plan


def reload(file: Path) -> Any:
    with silence():
        return transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()


def content(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and dequantized tensors."""
    reader = gguf.GGUFReader(file)
    tensors = {t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    return {field.name: field.contents() for field in reader.fields.values()}, tensors


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi3", "qwen2"])
@pytest.mark.parametrize("gone", [{0, 3}, {4}, {1, 2, 3}])
def test_files_without_blocks_reload_bit_exactly(tmp_path: Path, architecture: str, gone: set[int]) -> None:
    source = loaded(architecture)
    plan = write(tmp_path / "m.gguf", source, gone, gone)
    again = reload(tmp_path / "m.gguf")
    assert again.config.num_hidden_layers == BLOCKS - len(gone)
    assert torch.equal(logits(again), bypassed(source.model, gone, gone))
    assert plan.architecture in ("llama", "phi3", "qwen2")


def deci(file: Path, source: LoadedModel) -> Any:
    """What llama.cpp's src/models/deci.cpp computes, slowly: a Llama with heads and widths by the file's lists."""
    fields, tensors = content(file)
    heads, widths = fields["deci.attention.head_count"], fields["deci.feed_forward_length"]
    assert (len(heads), fields["general.architecture"]) == (fields["deci.block_count"], "deci")
    config = copy.deepcopy(source.model.config)
    config.num_hidden_layers = len(heads)
    model = random_model(config, seed=9)

    def take(parameter: nn.Parameter, name: str, count: int = 0) -> None:
        value = tensors.pop(name)
        if count:  # neighbours are rotated together in the file, halves in transformers
            value = value.view(count, -1, 2, value.shape[-1]).transpose(1, 2).reshape(value.shape)
        parameter.data = value

    for index, layer in enumerate(model.model.layers):
        block, attention, mlp = f"blk.{index}", layer.self_attn, layer.mlp
        pairs = fields["deci.attention.head_count_kv"][index]
        if heads[index]:
            for own, name, count in (
                (layer.input_layernorm, "attn_norm", 0),
                (attention.q_proj, "attn_q", heads[index]),
                (attention.k_proj, "attn_k", pairs),
                (attention.v_proj, "attn_v", 0),
                (attention.o_proj, "attn_output", 0),
            ):
                take(own.weight, f"{block}.{name}.weight", count)
        else:
            assert pairs == 0
            attention.o_proj.weight.data.zero_()
        assert tensors[f"{block}.ffn_up.weight"].shape == (widths[index], 64)
        take(layer.post_attention_layernorm.weight, f"{block}.ffn_norm.weight")
        for own, name in ((mlp.gate_proj, "ffn_gate"), (mlp.up_proj, "ffn_up"), (mlp.down_proj, "ffn_down")):
            take(own.weight, f"{block}.{name}.weight")
    for own, name in (
        (model.model.embed_tokens, "token_embd"),
        (model.model.norm, "output_norm"),
        (model.lm_head, "output"),
    ):
        take(own.weight, f"{name}.weight")
    assert not tensors
    return model


@pytest.mark.parametrize(
    ("attention", "mlp"), [({1}, set()), (set(), {0}), ({1, 3}, {3, 4}), ({2, 4}, {0, 1}), ({0, 2}, {0, 4})]
)
def test_halves_of_llamas_go_into_the_deci_layout(tmp_path: Path, attention: set[int], mlp: set[int]) -> None:
    source = loaded()
    write(tmp_path / "m.gguf", source, attention, mlp)
    torch.testing.assert_close(logits(deci(tmp_path / "m.gguf", source)), bypassed(source.model, attention, mlp))
    fields, _ = content(tmp_path / "m.gguf")
    assert fields["deci.feed_forward_length"].count(STUB) == len(mlp - attention)
    assert not [name for name in fields if name.startswith("llama.")]


@pytest.mark.parametrize("architecture", ["qwen2", "phi3"])
def test_halves_elsewhere_stay_with_outputs_of_zero(tmp_path: Path, architecture: str) -> None:
    source = loaded(architecture)
    write(tmp_path / "m.gguf", source, {0, 2}, {1, 2})
    again = reload(tmp_path / "m.gguf")
    assert again.config.num_hidden_layers == BLOCKS - 1
    torch.testing.assert_close(logits(again), bypassed(source.model, {0, 2}, {1, 2}))


@settings(max_examples=20)
@given(attention=st.sets(st.integers(1, BLOCKS - 1)), mlp=st.sets(st.integers(1, BLOCKS - 1)), kind=st.booleans())
def test_what_remains_is_numbered_and_whole(attention: set[int], mlp: set[int], kind: bool) -> None:
    plan = plan_gguf(loaded("llama" if kind else "qwen2"), {})
    after = drop_sublayers(plan, attention=attention, mlp=mlp)
    names = [tensor.name for tensor in after.tensors]
    assert len(set(names)) == len(names)
    blocks = {int(name.split(".")[1]) for name in names if name.startswith("blk.")}
    assert blocks == set(range(BLOCKS - len(attention & mlp)))
    assert predicted_bytes(after) < predicted_bytes(plan) or not attention | mlp
    if not attention | mlp:
        assert after == plan


def test_a_first_block_without_attention_is_refused() -> None:
    plan = plan_gguf(loaded(), {})
    for attention, mlp in (({0}, set()), ({0, 1}, {0})):
        with pytest.raises(UnsupportedModel, match=r"the first block that remains has no attention, which llama\.cpp"):
            drop_sublayers(plan, attention=attention, mlp=mlp)


def pattern(gone: set[int], period: int | list[bool] | None = 3) -> Any:
    """What a Gemma 3 of 7 blocks says of its windows after the blocks are dropped."""
    entries = [KeyValue("gemma3.block_count", 7, "UINT32"), KeyValue("gemma3.attention.sliding_window", 8, "UINT32")]
    if period is not None:
        entries.append(KeyValue("gemma3.attention.sliding_window_pattern", period, "UINT32"))
    plan = drop_sublayers(GgufPlan("gemma3", tuple(entries), ()), attention=gone, mlp=gone)
    found = [entry.value for entry in plan.metadata if entry.key.endswith("pattern")]
    return found[0] if found else None


def test_windows_are_listed_where_no_period_tells_them_any_more() -> None:
    assert pattern({6}) == 3
    assert pattern({0, 1, 2}) == 3
    assert pattern({1}) == [True, False, True, True, False, True]
    assert pattern({0}, [True, False] * 3 + [True]) == [False, True, False, True, False, True]
    assert pattern({6}, None) is None  # llama.cpp's own period of 6 still holds
    assert pattern({0}, None) == [True, True, True, True, False, True]


def test_numbers_of_blocks_that_change_the_computation_are_refused() -> None:
    plan = GgufPlan("gemma2", (KeyValue("gemma2.block_count", 46, "UINT32"),), ())
    with pytest.raises(UnsupportedModel, match=r"a gemma2 of 46 blocks otherwise .*; 46 blocks cannot become 45"):
        drop_sublayers(plan, attention={3}, mlp={3})


def test_zeros_take_little_room(tmp_path: Path) -> None:
    source = loaded()
    plan = write(tmp_path / "m.gguf", source, set(), {1})
    stub = [tensor for tensor in plan.tensors if tensor.name.startswith("blk.1.ffn_") and "norm" not in tensor.name]
    assert [(tensor.type, tensor.shape) for tensor in stub] == [("Q4_0", (32, 64))] * 2 + [("Q4_0", (64, 32))]
    assert pack_ggml(torch.zeros(32, 64), "Q4_0").dequantize().abs().sum() == 0
