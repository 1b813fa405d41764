import random

import pytest
import torch
from torch import nn

from evopress.errors import ProfileError
from evopress.models import Runner, Switch, bypass_slots, describe, dropped, find_sublayers
from evopress.testing import ARCHITECTURES, WINDOW, pico_model

torch.set_num_threads(1)

LLAMA = ("self_attn.o_proj", "mlp.down_proj")
PROJECTIONS = {  # architecture -> the last linears of a block's attention and MLP
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
} | {name: LLAMA for name in ARCHITECTURES if name not in ("falcon", "gpt2", "gpt_neox", "opt")}
MASKS = {  # which of the six sub-layers (attention and MLP of three blocks) are dropped
    "first attention": (0,),
    "first MLP": (1,),
    "last block": (4, 5),
    "all attention": (0, 2, 4),
    "all MLPs": (1, 3, 5),
    "first block and last attention": (0, 1, 4),
    "everything": (0, 1, 2, 3, 4, 5),
}


def make(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    return model, mapped, find_sublayers(model, mapped)


def random_ids(*shape, seed=0):
    return torch.randint(1, 96, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


def zeroed_logits(architecture, mask, ids):
    """Logits of another copy of the model in which the last linears of these sub-layers have no weight and no bias."""
    model = pico_model(architecture)
    blocks = model.get_submodule(describe(model).blocks)
    for position in mask:
        linear = blocks[position // 2].get_submodule(PROJECTIONS[architecture][position % 2])
        linear.weight.data.zero_()
        if getattr(linear, "bias", None) is not None:
            linear.bias.data.zero_()
    return logits(model, ids)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropping_equals_zeroing_the_last_linear(architecture):
    model, _, sublayers = make(architecture)
    ids = random_ids(2, 2 * WINDOW + 3)
    whole = logits(model, ids)
    for mask in MASKS.values():
        with dropped(model, [sublayers[position] for position in mask]):
            without = logits(model, ids)
        torch.testing.assert_close(without, zeroed_logits(architecture, mask, ids), rtol=1e-5, atol=1e-5)
        assert (without - whole).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_generation_is_the_same_with_and_without_a_cache(architecture):
    model, _, sublayers = make(architecture)
    prompt, mask_of_prompt = random_ids(2, WINDOW + 1), torch.ones(2, WINDOW + 1, dtype=torch.long)
    mask_of_prompt[0, :3] = 0  # padding on the left: now the masks have to have the right length, too
    options = {"max_new_tokens": 2 * WINDOW, "min_new_tokens": 2 * WINDOW, "do_sample": False}
    rng = random.Random(architecture)
    for mask in (MASKS["all attention"], MASKS["first block and last attention"], rng.sample(range(6), 3)):
        with dropped(model, [sublayers[position] for position in mask]):
            cached = model.generate(prompt, attention_mask=mask_of_prompt, use_cache=True, **options)
            plain = model.generate(prompt, attention_mask=mask_of_prompt, use_cache=False, **options)
        assert cached.shape == (2, 3 * WINDOW + 1)
        assert cached.tolist() == plain.tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_single_steps_with_a_cache_are_those_of_one_pass(architecture):
    model, _, sublayers = make(architecture)
    ids = random_ids(2, 2 * WINDOW + 5)
    with dropped(model, [sublayers[position] for position in MASKS["first block and last attention"]]):
        whole = logits(model, ids)
        cache, answers = None, []
        with torch.no_grad():
            for piece in (ids[:, :3], *ids[:, 3:].split(1, dim=1)):
                answer = model(piece, past_key_values=cache, use_cache=True)
                cache = answer.past_key_values
                answers.append(answer.logits)
    torch.testing.assert_close(torch.cat(answers, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert {cache.get_seq_length(block) for block in range(3)} == {ids.shape[1]}


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"num_beams": 3}])
def test_other_kinds_of_cache(options):
    model, _, sublayers = make("gemma2")
    prompt = random_ids(2, WINDOW + 1)
    options = options | {"max_new_tokens": WINDOW, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    with dropped(model, sublayers[:3]):
        cached = model.generate(prompt, use_cache=True, **options)
        options.pop("cache_implementation", None)
        assert cached.tolist() == model.generate(prompt, use_cache=False, **options).tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_dropped_sublayer_is_not_computed(architecture):
    model, mapped, sublayers = make(architecture)
    called = []
    for name, module in model.get_submodule(mapped.blocks).named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, args, output, name=name: called.append(name))
    everything = leaves_called(model, called)
    attention = {name for name in everything if "attn." in name or "attention." in name}
    for mask, gone in ((MASKS["all attention"], attention), (MASKS["all MLPs"], everything - attention)):
        with dropped(model, [sublayers[position] for position in mask]):
            left = leaves_called(model, called)
        linears = {linear.name.removeprefix(f"{mapped.blocks}.") for linear in mapped.linears}
        assert left & linears == linears - gone
    with dropped(model, sublayers):
        shared = {"falcon": {f"{block}.input_layernorm" for block in range(3)}}.get(architecture, set())
        assert leaves_called(model, called) == shared


def leaves_called(model, called):
    called.clear()
    logits(model, random_ids(1, 4))
    return set(called)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keeping_again_gives_the_same_modules_and_bits(architecture):
    model, _, sublayers = make(architecture)
    ids = random_ids(1, 12)
    before, modules = logits(model, ids), dict(model.named_modules())
    switches = [Switch(model, sublayer) for sublayer in sublayers]
    for switch in switches:
        switch.drop()
        switch.drop()
    assert dict(model.named_modules()) != modules
    assert not torch.equal(logits(model, ids), before)
    for switch in switches:
        switch.keep()
        switch.keep()
    after = dict(model.named_modules())
    assert list(after) == list(modules)
    assert all(after[name] is module for name, module in modules.items())
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_block_by_block_equals_the_stock_model(architecture):
    model, mapped, sublayers = make(architecture)
    runner = Runner(model, mapped)
    ids = random_ids(2, 2 * WINDOW + 3)
    for mask in MASKS.values():
        with dropped(model, [sublayers[position] for position in mask]):
            assert torch.equal(runner.logits(runner.head_input(ids)), logits(model, ids))


def test_a_norm_with_a_bias_behind_the_sublayer_adds_nothing():
    model = pico_model("gemma2")
    torch.manual_seed(0)
    for block in model.model.layers:
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            norm = nn.LayerNorm(48)
            norm.bias.data.normal_()
            setattr(block, name, norm)
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    runner = Runner(model, mapped)
    hidden, contexts = runner.begin(random_ids(1, 6))
    with dropped(model, sublayers):
        assert torch.equal(runner.block(1, hidden, contexts), hidden)


def test_dtype_and_parameters_of_a_model_in_half_precision():
    model = pico_model("gemma2").to(torch.bfloat16)
    sublayers = find_sublayers(model, describe(model))
    assert [sublayer.bytes for sublayer in sublayers] == [2 * sublayer.parameters for sublayer in sublayers]
    before = sum(parameter.numel() for parameter in model.parameters())
    with dropped(model, sublayers[1:4]):
        assert logits(model, random_ids(1, 5)).dtype == torch.bfloat16
        lost = before - sum(parameter.numel() for parameter in model.parameters())
    assert lost == sum(sublayer.parameters for sublayer in sublayers[1:4])


def test_an_error_inside_restores_and_a_dropped_sublayer_cannot_be_taken_again():
    model, _, sublayers = make("llama")
    ids = random_ids(1, 5)
    before = logits(model, ids)
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn is dropped already"), dropped(model, sublayers):
        Switch(model, sublayers[0])
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize(
    ("granularity", "names", "mask"),
    [
        ("sublayer", ["model.layers.{}.attn", "model.layers.{}.mlp"], {"model.layers.1.mlp": (3,)}),
        ("block", ["model.layers.{}.attn+mlp"], {"model.layers.2.attn+mlp": (4, 5)}),
    ],
)
def test_slots_apply_levels(granularity, names, mask):
    model, _, sublayers = make("mistral")
    ids = random_ids(1, 9)
    before = logits(model, ids)
    slots = bypass_slots(model, sublayers, granularity)
    assert [[slot.name for slot in block] for block in slots] == [
        *([n.format(block) for n in names] for block in range(3)),
        [],
        [],
    ]
    [(name, positions)] = mask.items()
    [slot] = [slot for block in slots for slot in block if slot.name == name]
    assert slot.level is None
    for level, expected in (("drop", zeroed_logits("mistral", positions, ids)), ("keep", before), (None, before)):
        slot.apply(level)
        assert slot.level == level
        assert torch.equal(logits(model, ids), expected)


def test_slots_of_pairs_lie_in_both_blocks():
    model = pico_model("llama", blocks=5)
    sublayers = find_sublayers(model, describe(model))
    slots = bypass_slots(model, sublayers, "pair")
    names = [f"model.layers.{blocks}.attn+mlp" for blocks in ("0-1", "0-1", "2-3", "2-3", "4")]
    assert [[slot.name for slot in block] for block in slots] == [*([name] for name in names), [], []]
    ids = random_ids(1, 5)
    with dropped(model, sublayers[4:8]):
        expected = logits(model, ids)
    slots[2][0].apply("drop")
    slots[3][0].apply("drop")
    assert torch.equal(logits(model, ids), expected)


def test_unknown_levels():
    model, _, sublayers = make("llama")
    slot = bypass_slots(model, sublayers)[0][0]
    with pytest.raises(ProfileError, match=r"unit model\.layers\.0\.attn: unknown level '3', it has drop, keep"):
        slot.apply("3")
    assert slot.level is None
