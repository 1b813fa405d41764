"""Tiny models of many classes: what is found in them, and that running them block by block is running them."""

import pytest
import torch
import transformers

from evopress.errors import UnsupportedModel
from evopress.models import Runner, bypass_slots, describe, find_blocks, find_sublayers
from evopress.models.coverage import coverage, narrow
from evopress.models.experts import split_experts
from evopress.models.removable import why_not_shorten
from evopress.models.shorten import shortened_config
from evopress.testing import randomize
from evopress.testing.tiny import tiny_config

torch.set_num_threads(1)

# Model type -> the share of its blocks' weights that are units, and the kinds of sub-layers of its first two blocks;
# None where blocks are no sums of them.
CAUSAL = {
    "apertus": (1.0, "attn mlp attn mlp"),
    "arcee": (1.0, "attn mlp attn mlp"),
    "bamba": (0.98, "attn mlp attn mlp"),
    "bart": (0.66, "attn mlp attn mlp"),
    "bert": (1.0, None),
    "biogpt": (1.0, "attn mlp attn mlp"),
    "bloom": (1.0, None),
    "codegen": (1.0, "attn mlp attn mlp"),
    "cohere2": (1.0, "attn mlp attn mlp"),
    "ctrl": (1.0, "attn mlp attn mlp"),
    "dbrx": (0.1, "attn mlp attn mlp"),
    "ernie4_5": (1.0, "attn mlp attn mlp"),
    "exaone4": (1.0, "attn mlp attn mlp"),
    "falcon_h1": (0.98, "attn mixer mlp attn mixer mlp"),
    "gemma": (1.0, "attn mlp attn mlp"),
    "gemma3n_text": (1.0, None),
    "gemma4_text": (1.0, "attn mlp extra attn mlp extra"),
    "glm4": (1.0, "attn mlp attn mlp"),
    "glm4_moe": (0.99, "attn mlp attn mlp"),
    "gpt_bigcode": (1.0, "attn mlp attn mlp"),
    "gpt_neo": (1.0, "attn mlp attn mlp"),
    "gptj": (1.0, "attn mlp attn mlp"),
    "helium": (1.0, "attn mlp attn mlp"),
    "jamba": (0.96, "attn mlp attn mlp"),
    "lfm2": (0.99, "attn mlp attn mlp"),
    "mamba2": (0.97, "attn attn"),
    "minimax_m2": (0.99, "attn mlp attn mlp"),
    "ministral3": (1.0, "attn mlp attn mlp"),
    "mpt": (1.0, "attn mlp attn mlp"),
    "nemotron": (1.0, "attn mlp attn mlp"),
    "olmo": (1.0, "attn mlp attn mlp"),
    "olmoe": (0.99, "attn mlp attn mlp"),
    "olmo_hybrid": (0.98, "attn mlp attn mlp"),
    "openai-gpt": (1.0, "attn mlp attn mlp"),
    "phi": (1.0, "attn mlp attn mlp"),
    "qwen3_5_text": (0.99, "attn mlp attn mlp"),
    "recurrent_gemma": (0.93, "attn mlp attn mlp"),
    "rwkv": (0.99, "attn mlp attn mlp"),
    "seed_oss": (1.0, "attn mlp attn mlp"),
    "starcoder2": (1.0, "attn mlp attn mlp"),
    "zamba": (0.81, None),
}
WRAPPERS = ("gemma3", "idefics3", "llava", "mistral3", "paligemma", "qwen2_5_vl", "qwen3_vl", "smolvlm")


def make(auto, model_type):
    with torch.random.fork_rng(devices=[]):
        return randomize(auto.from_config(tiny_config(model_type), dtype=torch.float32).eval())


def check_runner(model, mapped, **options):
    runner = Runner(model, mapped)
    ids = torch.randint(20, 60, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = model(input_ids=ids, use_cache=False, **options).logits
        torch.testing.assert_close(runner.logits(runner.head_input(ids)), stock, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_causal_classes(model_type):
    model = split_experts(make(transformers.AutoModelForCausalLM, model_type))
    mapped = describe(model)
    share, kinds = CAUSAL[model_type]
    assert int(100 * mapped.share) / 100 >= share
    assert mapped.share < share + 0.05
    assert bool(coverage(mapped)) == (mapped.share < 0.95)
    check_runner(model, mapped)
    if kinds is None:
        with pytest.raises(UnsupportedModel):
            find_sublayers(model, mapped)
        return
    assert " ".join(one.kind for one in find_sublayers(model, mapped) if one.block < 2) == kinds


@pytest.mark.parametrize("model_type", WRAPPERS)
def test_wrappers(model_type):
    model = make(transformers.AutoModelForImageTextToText, model_type)
    mapped = describe(model)
    assert mapped.share == 1.0
    touched = [name for name, _ in model.named_parameters() if not mapped.untouched_by_text(name)]
    assert all("vis" not in name and "projector" not in name for name in touched)
    answers = {"token_type_ids": torch.ones(2, 11, dtype=torch.long)} if model_type == "paligemma" else {}
    check_runner(model, mapped, **answers)


def test_blocks_that_text_does_not_run_stay_as_they_are():
    model = make(transformers.AutoModelForImageTextToText, "mllama")
    mapped = describe(model)
    assert (mapped.n_blocks, mapped.idle, mapped.share) == (4, (3,), 0.75)
    assert "not called on text" in coverage(mapped)
    check_runner(model, mapped)
    sublayers = find_sublayers(model, mapped)
    assert [one.block for one in sublayers] == [0, 0, 1, 1, 2, 2]
    assert [one.block for one in find_blocks(model, mapped)] == [0, 1, 2]
    assert [len(slots) for slots in bypass_slots(model, sublayers, n_blocks=4)] == [2, 2, 2, 0, 0, 0]
    assert why_not_shorten(model, mapped, sublayers) is None
    assert shortened_config(model.config, mapped, [0]).get_text_config().cross_attention_layers[0] == 2


def test_blocks_that_hand_on_more_than_a_hidden_state_are_refused_in_one_line():
    kinds = {"mlp_layer_types": ["dense"] * 4, "indexer_types": ["full", "shared", "full", "shared"]}
    with torch.random.fork_rng(devices=[]):
        config = tiny_config("glm_moe_dsa", **kinds)
        model = randomize(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    with pytest.raises(UnsupportedModel, match=r"its blocks hand to each other is missing: [^\n]+$"):
        Runner(model, describe(model))


def test_a_model_that_fails_in_its_dtype_is_refused_in_one_line():
    model = make(transformers.AutoModelForCausalLM, "xlstm")
    check_runner(model, describe(model))
    with pytest.raises(
        UnsupportedModel, match=r"itself cannot answer 8 tokens as bfloat16 \(.*\); try another --dtype$"
    ):
        describe(model.to(torch.bfloat16))


def test_few_linears_narrower_than_a_group_stay_dense():
    mapped = describe(make(transformers.AutoModelForCausalLM, "gemma3n_text"))
    names = narrow(mapped, 16)
    assert {name.rpartition(".")[2] for name in names} == {"correction_coefs", "prediction_coefs"}
    assert narrow(mapped, 4096) == []
    left = mapped.without(names, "narrower than a group")
    assert len(left.linears) == len(mapped.linears) - len(names)
    assert left.share < mapped.share == 1.0


@pytest.mark.parametrize("model_type", ["jetmoe", "longcat_flash"])
def test_experts_that_are_built_otherwise_are_refused_in_one_line(model_type):
    with pytest.raises(UnsupportedModel, match=r"holds \d+ experts; experts that are built so are not supported yet$"):
        describe(make(transformers.AutoModelForCausalLM, model_type))
