import pytest
import torch
import transformers
from torch import nn

from evopress.errors import ModelError, UnsupportedModel
from evopress.models import describe
from evopress.testing import ARCHITECTURES, pico_model, random_model

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LLAMA = (QKV, ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))

GROUPS = {  # architecture -> roles of one block, those in one tuple read the same tensor
    "falcon": (
        ("self_attention.query_key_value", "mlp.dense_h_to_4h"),
        ("self_attention.dense",),
        ("mlp.dense_4h_to_h",),
    ),
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "gpt2": (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
    "gpt_neox": (("attention.query_key_value",), ("attention.dense",), ("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",)),
    "granite": LLAMA,
    "llama": LLAMA,
    "mistral": LLAMA,
    "olmo2": LLAMA,
    "opt": (QKV, ("self_attn.out_proj",), ("fc1",), ("fc2",)),
    "phi3": (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
}
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def groups_of(mapped, block):
    found = {}
    for linear in mapped.of_block(block):
        found.setdefault(linear.input_group, set()).add(linear.role)
    return found


def test_every_architecture_has_an_expectation():
    assert sorted(GROUPS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_finds_all_linears_and_who_shares_an_input(architecture):
    mapped = describe(pico_model(architecture))
    assert mapped.n_blocks == 3
    expected = sorted(map(sorted, GROUPS[architecture]))
    for block in range(3):
        assert sorted(map(sorted, groups_of(mapped, block).values())) == expected
    assert len(mapped.linears) == 3 * sum(map(len, GROUPS[architecture]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_shapes_and_groups_are_the_models_own(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    assert len({linear.name for linear in mapped.linears}) == len(mapped.linears)
    for linear in mapped.linears:
        assert linear.name == f"{mapped.blocks}.{linear.block}.{linear.role}"
        assert linear.input_group.startswith(f"{mapped.blocks}.{linear.block}.")
        stored = tuple(model.get_parameter(linear.view.parameter).shape)
        assert linear.view.shape == (stored[::-1] if architecture == "gpt2" else stored)
        assert linear.view.transposed == (architecture == "gpt2")


@pytest.mark.parametrize(
    ("architecture", "blocks", "tail"),
    [
        ("llama", "model.layers", ("model.norm",)),
        ("gpt2", "transformer.h", ("transformer.ln_f",)),
        ("opt", "model.decoder.layers", ("model.decoder.final_layer_norm", "model.decoder.project_out")),
        ("gpt_neox", "gpt_neox.layers", ("gpt_neox.final_layer_norm",)),
    ],
)
def test_blocks_tail_and_head(architecture, blocks, tail):
    mapped = describe(pico_model(architecture))
    assert (mapped.blocks, mapped.tail, mapped.head) == (blocks, tail, "lm_head")


def test_one_block_is_enough_and_hooks_are_gone():
    model = pico_model("llama", blocks=1)
    assert describe(model).n_blocks == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_given_probe_finds_the_same():
    model = pico_model("gemma2")
    assert describe(model, torch.tensor([[3, 1, 4, 1, 5]])) == describe(model)


def test_in_place_change_between_two_readers_splits_the_group():
    model = pico_model("llama")
    up = model.model.layers[0].mlp.up_proj
    up.register_forward_pre_hook(lambda module, args: (args[0].mul_(1.0),))
    assert {"mlp.gate_proj"} in groups_of(describe(model), 0).values()
    assert {"mlp.gate_proj", "mlp.up_proj"} in groups_of(describe(model), 1).values()


def test_experts_that_were_not_split_are_named():
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
    with pytest.raises(UnsupportedModel, match=r"^model\.layers\.0\.mlp\.experts\.\w+ holds 4 experts; experts that"):
        describe(random_model(config))


def test_an_encoder_is_not_causal():
    config = transformers.BertConfig(**{**SHAPE, "is_decoder": False})
    model = transformers.BertForMaskedLM(config).eval()
    with pytest.raises(UnsupportedModel, match="BertForMaskedLM is not causal"):
        describe(random_weights(model))


def test_encoder_decoder_and_missing_head():
    config = transformers.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        describe(transformers.T5ForConditionalGeneration(config).eval())
    with pytest.raises(UnsupportedModel, match="no language-model head found in LlamaModel"):
        describe(pico_model("llama").model)


def test_no_list_of_blocks():
    model = pico_model("llama", blocks=2)
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(UnsupportedModel, match="no list of blocks found in LlamaForCausalLM"):
        describe(model)


def test_what_is_no_linear_that_text_reaches_is_left_dense_and_counted():
    model = pico_model("llama")
    block = model.model.layers[2]
    block.spare, block.conv = nn.Linear(4, 5), nn.Conv1d(8, 8, 4, groups=8)
    block.vectors, block.scale = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(7))
    mapped = describe(model)
    assert mapped.linears == describe(pico_model("llama")).linears
    assert {left.parameter: (left.size, left.why) for left in mapped.left} == {
        "model.layers.2.spare.weight": (20, "not called on text"),
        "model.layers.2.conv.weight": (32, "no linear layer"),
        "model.layers.2.vectors": (6, "no linear layer"),
    }
    units = sum(linear.view.shape[0] * linear.view.shape[1] for linear in mapped.linears)
    assert mapped.share == units / (units + 58)
    assert describe(pico_model("llama")).share == 1.0


def test_modules_of_which_a_token_chooses_are_experts():
    model = pico_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.experts = nn.ModuleList(nn.Linear(48, 48) for _ in range(4))
    mlp.register_forward_hook(lambda module, args, output: output + module.experts[2](args[0]))
    with pytest.raises(UnsupportedModel, match=r"^model\.layers\.1\.mlp\.experts holds 4 experts; experts that"):
        describe(model)


def test_blocks_of_several_classes_and_blocks_without_linears():
    model = pico_model("llama", blocks=2)
    model.model.layers[1].__class__ = type("Other", (type(model.model.layers[1]),), {})
    assert describe(model) == describe(pico_model("llama", blocks=2))


def test_a_weight_that_blocks_share_is_one_unit():
    model = pico_model("llama")
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    mapped = describe(model)
    (again,) = mapped.again
    assert (again.name, again.block) == ("model.layers.2.mlp.up_proj", 2)
    assert again.view.parameter == "model.layers.0.mlp.up_proj.weight"
    assert again.name not in [linear.name for linear in mapped.linears]
    assert len(mapped.linears) == len(describe(pico_model("llama")).linears) - 1
    assert mapped.share == 1.0


def test_integer_weights():
    model = pico_model("llama")
    linear = model.model.layers[0].mlp.up_proj
    matrix = linear.weight.detach()
    linear.forward = lambda x: x @ matrix.T
    linear.weight = nn.Parameter(torch.zeros(96, 48, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match=r"up_proj\.weight is torch\.int8 \(96, 48\)"):
        describe(model)


def test_training_mode_is_refused():
    with pytest.raises(ModelError, match="training mode"):
        describe(pico_model("llama").train())


def random_weights(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15)
    return model
