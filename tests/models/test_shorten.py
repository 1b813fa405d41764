from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from evopress.errors import UnsupportedModel
from evopress.models import describe, dropped, find_sublayers
from evopress.models.removable import whole_blocks, why_not_shorten
from evopress.models.shorten import cut_along, new_names, shortened, shortened_config
from evopress.testing import ARCHITECTURES, WINDOW, pico_model, random_model
from evopress.testing.tiny import tiny_config

torch.set_num_threads(1)

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ODD = {  # blocks that differ from each other by their number
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "smollm3": {"no_rope_layer_interval": 2},
    "cohere2": {"sliding_window": WINDOW, "sliding_window_pattern": 3, "head_dim": 12},
}


CUT: dict[str, Any] = {  # what a configuration says of blocks by their numbers, or elsewhere; masks of blocks to drop
    "gemma4_text": ((0,), (1, 2)),
    "recurrent_gemma": ((0,),),
}


def odd_model(architecture: str, **options: Any) -> Any:
    return random_model(transformers.AutoConfig.for_model(architecture, **SHAPE, **options))


def check(model: Any, *masks: tuple[int, ...]) -> None:
    """A shortened model answers bit for bit what the model answers that bypasses the blocks."""
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    ids = torch.randint(1, 96, (2, 2 * WINDOW + 3), generator=torch.Generator().manual_seed(0))
    assert why_not_shorten(model, mapped, sublayers) is None
    for blocks in masks:
        short = shortened(model, mapped, blocks)
        assert describe(short).n_blocks == mapped.n_blocks - len(blocks)
        with torch.no_grad(), dropped(model, [sublayer for sublayer in sublayers if sublayer.block in blocks]):
            expected = model(ids).logits
        with torch.no_grad():
            assert torch.equal(short(ids).logits, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_blocks_a_model_computes_what_it_computes_bypassing_them(architecture: str) -> None:
    check(pico_model(architecture, blocks=5), (0, 3), (1, 2, 4))


@pytest.mark.parametrize(("architecture", "masks"), CUT.items())
def test_what_is_said_and_stored_of_each_block_elsewhere_is_cut(architecture: str, masks: Any) -> None:
    check(random_model(tiny_config(architecture)), *masks)


def test_tensors_outside_the_blocks_with_a_part_for_each_of_them() -> None:
    model = random_model(tiny_config("gemma4_text"))
    mapped = describe(model)
    cut = cut_along(model, mapped)
    assert cut == {"model.embed_tokens_per_layer.weight": 1, "model.per_layer_model_projection.weight": 0}
    whole, short = model.state_dict(), shortened(model, mapped, [1]).state_dict()
    for name, dim in cut.items():
        parts = whole[name].chunk(4, dim)
        assert torch.equal(short[name], torch.cat([parts[0], parts[2], parts[3]], dim))
    assert cut_along(pico_model("llama"), describe(pico_model("llama"))) == {}


def test_numbers_of_blocks_in_a_configuration_move_up() -> None:
    model = pico_model("llama", blocks=5)
    model.config.odd_layers, model.config.widths_of_layers = [1, 3, 7], [4, 4, 2]
    model.config.odd_heads, model.config.layer_settings = [1, 3], {"1": "one", "4": "four"}
    config = shortened_config(model.config, describe(model), [0, 3])
    assert (config.odd_layers, config.widths_of_layers, config.odd_heads) == ([0, 5], [4, 4, 2], [1, 3])
    assert config.layer_settings == {"0": "one", "2": "four"}
    assert config.id2label == model.config.id2label


def test_a_configuration_that_would_put_another_block_in_its_place_is_none() -> None:
    model = random_model(tiny_config("gemma4_text"))
    with pytest.raises(UnsupportedModel, match=r"cannot have blocks \[0, 1, 2\] alone: it makes .* its layer_types"):
        shortened_config(model.config, describe(model), [3])


@pytest.mark.parametrize("architecture", ODD)
def test_blocks_that_differ_by_their_number_keep_their_differences(architecture: str) -> None:
    check(odd_model(architecture, **ODD[architecture]), (0,), (1, 3))


def test_every_list_of_the_configuration_is_cut() -> None:
    model = odd_model("smollm3", no_rope_layer_interval=2, use_sliding_window=True, sliding_window=WINDOW)
    model.config.eos_token_id = [0, 1, 2, 3, 4]
    model.config.widths = (5, 6, 7, 8, 9)
    config = shortened_config(model.config, describe(model), [1, 2])
    assert config.num_hidden_layers == 3
    assert (model.config.no_rope_layers, config.no_rope_layers) == ([1, 0, 1, 0, 1], [1, 0, 1])
    assert config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert config.widths == (5, 8, 9)
    assert config.eos_token_id == [0, 1, 2, 3, 4]
    assert model.config.num_hidden_layers == 5


@pytest.mark.parametrize(("first", "expected"), [(2, 1), (5, 3), (28, 28)])
def test_the_first_windowed_block_is_counted_anew(first: int, expected: int) -> None:
    model = odd_model("qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=first)
    assert shortened_config(model.config, describe(model), [0, 3]).max_window_layers == expected


def test_weights_are_shared_and_the_model_is_left_alone() -> None:
    model = pico_model("gpt2", blocks=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    short = shortened(model, describe(model), [1])
    assert short.transformer.h[2].attn.c_attn.weight.data_ptr() == model.transformer.h[3].attn.c_attn.weight.data_ptr()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.n_layer == 4
    assert short.config.n_layer == 3


def test_blocks_that_depend_on_their_number_are_found_by_structure() -> None:
    model = odd_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    mapped = describe(model)
    why = why_not_shorten(model, mapped, find_sublayers(model, mapped))
    assert why == "its blocks depend on their number: scaling of transformer.h.1.attn would change"


def test_models_that_cannot_be_shorter_say_why() -> None:
    model = pico_model("llama", blocks=2)
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    model.config.num_hidden_layers = 7
    with pytest.raises(UnsupportedModel, match="llama does not say that there are 2 blocks"):
        shortened(model, mapped, [0])
    assert "does not say" in str(why_not_shorten(model, mapped, sublayers))
    model.config.num_hidden_layers, model.config.head_dim = 2, 5
    assert "a configuration of llama cannot have blocks [1] alone: ValueError: RoPE" in str(
        why_not_shorten(model, mapped, sublayers)
    )
    single = pico_model("llama", blocks=1)
    assert why_not_shorten(single, describe(single), []) == "it has one block"


def test_a_block_that_is_more_than_its_sublayers_stays() -> None:
    model = pico_model("llama")
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    model.model.layers[0].register_forward_hook(lambda module, args, output: output * 1.5)
    assert why_not_shorten(model, mapped, sublayers) == "its blocks compute other numbers once renumbered"


def test_one_block_stays() -> None:
    model = pico_model("llama")
    sublayers = find_sublayers(model, describe(model))
    assert whole_blocks(sublayers, [sublayer.name for sublayer in sublayers]) == (1, 2)
    assert whole_blocks(sublayers, [sublayer.name for sublayer in sublayers[:4]]) == (0, 1)
    assert whole_blocks(sublayers, [sublayer.name for sublayer in sublayers[1:3]]) == ()


def test_names_of_what_is_left_out_are_gone() -> None:
    mapped = describe(pico_model("llama"))
    names = ["lm_head.weight", "model.layers.0.mlp.up_proj", "model.layers.2", "model.layers.1.mlp"]
    assert new_names(names, mapped, [0]) == {
        "lm_head.weight": "lm_head.weight",
        "model.layers.2": "model.layers.1",
        "model.layers.1.mlp": "model.layers.0.mlp",
    }
