import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from evopress.errors import UnsupportedModel
from evopress.models import describe, find_sublayers
from evopress.testing import ARCHITECTURES, pico_model, random_model
from evopress.testing.tiny import tiny_config

torch.set_num_threads(1)

LLAMA = (("self_attn", "input_layernorm"), ("mlp", "post_attention_layernorm"))
PARTS = {  # architecture -> for attention and MLP: what writes to the residual stream, then what serves it alone
    "falcon": (("self_attention",), ("mlp",)),
    "gemma2": (
        ("self_attn", "input_layernorm", "post_attention_layernorm"),
        ("mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    "gpt2": (("attn", "ln_1"), ("mlp", "ln_2")),
    "gpt_neox": (
        ("attention", "input_layernorm", "post_attention_dropout"),
        ("mlp", "post_attention_layernorm", "post_mlp_dropout"),
    ),
    "granite": LLAMA,
    "llama": LLAMA,
    "mistral": LLAMA,
    "olmo2": (("self_attn", "post_attention_layernorm"), ("mlp", "post_feedforward_layernorm")),
    "opt": (("self_attn", "self_attn_layer_norm"), ("fc2", "activation_fn", "fc1", "final_layer_norm")),
    "phi3": (
        ("self_attn", "input_layernorm", "resid_attn_dropout"),
        ("mlp", "post_attention_layernorm", "resid_mlp_dropout"),
    ),
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "stablelm": (("self_attn", "input_layernorm"), ("mlp", "post_attention_layernorm", "dropout")),
}
PARTS["gemma3_text"] = PARTS["gemma2"]
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
VARIANTS = [
    ("falcon", {"new_decoder_architecture": True}, (("self_attention", "ln_attn"), ("mlp", "ln_mlp"))),
    ("falcon", {"parallel_attn": False}, (("self_attention", "input_layernorm"), ("mlp", "post_attention_layernorm"))),
    ("falcon", {"alibi": True}, PARTS["falcon"]),
    ("gpt_neox", {"use_parallel_residual": False}, PARTS["gpt_neox"]),
    ("opt", {"do_layer_norm_before": False, "ffn_dim": 96}, (("self_attn",), ("fc2", "activation_fn", "fc1"))),
    ("stablelm", {"use_parallel_residual": True, "partial_rotary_factor": 0.5}, (("self_attn",), ("mlp", "dropout"))),
    ("mpt", {"d_model": 48, "n_heads": 4, "n_layers": 2}, (
        ("attn", "norm_1", "resid_attn_dropout"), ("ffn.down_proj", "norm_2", "ffn.up_proj", "ffn.act"))),
]  # fmt: skip


def parts_of(sublayer, mapped):
    path = f"{mapped.blocks}.{sublayer.block}."
    assert all(name.startswith(path) for name in (sublayer.writer, *sublayer.servants))
    return tuple(name.removeprefix(path) for name in (sublayer.writer, *sublayer.servants))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_finds_the_sublayers_of_every_block(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    path = mapped.blocks
    assert [sublayer.name for sublayer in sublayers] == [
        f"{path}.{i}.{kind}" for i in range(3) for kind in ("attn", "mlp")
    ]
    assert [parts_of(sublayer, mapped) for sublayer in sublayers] == list(PARTS[architecture]) * 3
    assert [sublayer.cache_index for sublayer in sublayers] == [0, None, 1, None, 2, None]
    assert {sublayer.width for sublayer in sublayers} == {48}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_of_a_blocks_sublayers_are_all_but_those_of_a_shared_norm(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    for index, block in enumerate(model.get_submodule(mapped.blocks)):
        own = [sublayer for sublayer in sublayers if sublayer.block == index]
        shared = 2 * 48 if architecture == "falcon" else 0
        assert sum(sublayer.parameters for sublayer in own) == sum(p.numel() for p in block.parameters()) - shared
        assert all(sublayer.bytes == 4 * sublayer.parameters for sublayer in own)


@pytest.mark.parametrize(("architecture", "options", "parts"), VARIANTS)
def test_variants_of_architectures(architecture, options, parts):
    config = transformers.AutoConfig.for_model(architecture, **(SHAPE | options))
    model = random_model(config)
    mapped = describe(model)
    assert [parts_of(sublayer, mapped) for sublayer in find_sublayers(model, mapped)] == list(parts) * 2


def test_the_model_stays_as_it_was():
    model = pico_model("gemma2")
    modules, ids = dict(model.named_modules()), torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    find_sublayers(model, describe(model))
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids).logits, before)


def test_a_sublayer_that_adds_the_residual_itself_is_refused():
    config = transformers.AutoConfig.for_model("bloom", **SHAPE, n_head=4)
    model = random_model(config)
    with pytest.raises(UnsupportedModel, match=r"cannot drop the attn of transformer\.h\.0: .*self_attention nor"):
        find_sublayers(model, describe(model))


class TwoWriters(LlamaDecoderLayer):
    """A block with a third contribution to the residual stream."""

    def forward(self, hidden_states, **kwargs):
        return super().forward(hidden_states, **kwargs) + self.extra(hidden_states)


def test_a_third_contribution_is_a_sublayer_of_its_own():
    model = pico_model("llama", blocks=2)
    for block in model.model.layers:
        block.extra = nn.Linear(48, 48)
        block.__class__ = TwoWriters
    found = find_sublayers(model, describe(model))
    assert [(one.kind, one.writer.rpartition(".")[2]) for one in found[:3]] == [
        ("attn", "self_attn"),
        ("mlp", "mlp"),
        ("extra", "extra"),
    ]


class Watched(LlamaDecoderLayer):
    """A block with a module whose output nobody reads."""

    def forward(self, hidden_states, **kwargs):
        self.watch(hidden_states)
        return super().forward(hidden_states, **kwargs)


def test_a_module_that_serves_nobody_belongs_to_one_sublayer_at_most():
    model = pico_model("llama", blocks=2)
    for block in model.model.layers:
        block.watch = nn.LayerNorm(48)
        block.__class__ = Watched
    servants = [name for sublayer in find_sublayers(model, describe(model)) for name in sublayer.servants]
    assert len(servants) == len(set(servants))


def kinds_of(architecture, **options):
    """For each block the kinds of its sub-layers and their writers' own names."""
    model = random_model(tiny_config(architecture, **options))
    blocks = {}
    for one in find_sublayers(model, describe(model)):
        blocks.setdefault(one.block, []).append((one.kind, one.writer.rpartition(".")[2]))
    return list(map(dict, blocks.values()))


def test_what_keeps_a_state_is_found_like_attention():
    recurrent, attending = {"attn": "linear_attn", "mlp": "mlp"}, {"attn": "self_attn", "mlp": "mlp"}
    assert kinds_of("qwen3_5_text") == [recurrent, attending] * 2
    assert (
        kinds_of("lfm2") == [{"attn": "conv", "mlp": "feed_forward"}, {"attn": "self_attn", "mlp": "feed_forward"}] * 2
    )
    assert kinds_of("mamba2", num_hidden_layers=2) == [{"attn": "mixer"}] * 2


def test_blocks_with_three_sublayers():
    expected = {"attn": "self_attn", "mixer": "mamba", "mlp": "feed_forward"}
    assert kinds_of("falcon_h1", num_hidden_layers=2) == [expected] * 2
    expected = {"attn": "self_attn", "mlp": "mlp", "extra": "per_layer_projection"}
    assert kinds_of("gemma4_text", num_hidden_layers=2) == [expected] * 2


def test_attention_that_keeps_nothing_is_what_comes_first():
    assert kinds_of("rwkv", num_hidden_layers=2) == [{"attn": "attention", "mlp": "feed_forward"}] * 2


def test_a_model_that_looks_into_its_attention_is_refused():
    model = pico_model("llama", blocks=2)

    def curious(module, args, kwargs):
        assert module.layers[0].self_attn.head_dim

    model.model.register_forward_pre_hook(curious, with_kwargs=True)
    mapped = describe(model)
    with pytest.raises(UnsupportedModel, match=r"LlamaForCausalLM reads something of a dropped sub-layer: .*head_dim"):
        find_sublayers(model, mapped)
