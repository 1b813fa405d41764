"""Inputs that once ended in a crash after a search: one line each, before it."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evopress.errors import DataError, ModelError
from evopress.models import load_model
from evopress.models.checks import require_known_tokens
from evopress.models.gguf_rope import llama3_factors
from evopress.testing import pico_model, pico_tokenizer, write_pico_checkpoint

torch.set_num_threads(1)


def edit(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(directory, change):
    file = directory / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def load(directory, **options):
    return load_model(str(directory), dtype=torch.float32, **options)


def test_a_part_of_a_split_gguf_file(tmp_path):
    file = tmp_path / "model-00001-of-00002.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"^model-00001-of-00002\.gguf is part 1 of 2 of a split GGUF file; merge"):
        load(file)


def test_weights_that_are_quantized_already(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    edit(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    with pytest.raises(ModelError, match=r"is quantized already \(fp8\); levels are made from dense weights"):
        load(tmp_path)


def test_flags_that_change_what_a_model_returns_are_off(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    edit(tmp_path, output_attentions=True, output_hidden_states=True)
    config = load(tmp_path).model.config
    assert not config.output_attentions
    assert not config.output_hidden_states
    config.save_pretrained(tmp_path)


def test_a_layer_of_another_width_is_named(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")

    def narrow(weights):
        name = "model.layers.1.mlp.up_proj.weight"
        weights[name] = weights[name][:64].clone()

    change_weights(tmp_path, narrow)
    expected = r"model\.layers\.1\.mlp\.up_proj\.weight is \(64, 48\) in the files and \(96, 48\) by config\.json"
    with pytest.raises(ModelError, match=expected):
        load(tmp_path)


def test_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter alone; merge it into its model"):
        load(tmp_path)


def test_tokens_that_the_embedding_has_no_row_for():
    model, tokenizer = pico_model("llama"), pico_tokenizer()
    require_known_tokens(model, tokenizer, [torch.tensor([1, 95]), torch.tensor([], dtype=torch.long)])
    tokenizer.add_tokens(["<|new|>"])
    new = len(tokenizer) - 1
    model.resize_token_embeddings(new)
    with pytest.raises(DataError, match=rf"token {new} \(<\|new\|>\), but the model's embedding has {new} rows"):
        require_known_tokens(model, tokenizer, [torch.tensor([1, new])])


def test_what_the_class_does_not_take_is_known(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    assert load(tmp_path).files.unused == ()
    change_weights(tmp_path, lambda weights: weights.update({"mtp.norm.weight": torch.ones(48)}))
    edit(tmp_path, num_hidden_layers=2)
    unused = load(tmp_path).files.unused
    assert "mtp.norm.weight" in unused
    assert len(unused) == 10
    assert all(name == "mtp.norm.weight" or name.startswith("model.layers.2.") for name in unused)


def test_factors_of_llama_3_are_those_of_transformers():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = transformers.LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
    torch.testing.assert_close(llama3_factors(500000.0, 128, 8.0), plain / scaled)
