"""Inputs that once ended in a crash after a search: one line each, before it."""

import json

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evopress.errors import DataError, MissingExtra, ModelError
from evopress.formats.gguf import export_gguf, plan_gguf
from evopress.models import LoadedModel, load_model
from evopress.models.checks import require_known_tokens
from evopress.models.gguf_rope import llama3_factors
from evopress.testing import (
    gguf_config,
    merging_tokenizer,
    pico_model,
    pico_tokenizer,
    random_model,
    write_pico_checkpoint,
)

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


def split_gguf(whole, directory):
    """The file as two, as llama.cpp's gguf-split makes them: settings in the first, tensors in both."""
    reader = gguf.GGUFReader(str(whole))
    half = len(reader.tensors) // 2
    for part, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        file = directory / f"model-0000{part + 1}-of-00002.gguf"
        writer = gguf.GGUFWriter(str(file), "llama")
        for field in reader.fields.values() if part == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture" and len(field.data):
                item = field.types[1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=item)
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", 2)
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def test_a_gguf_model_in_parts_is_the_model_in_one_file(tmp_path):
    model = random_model(gguf_config("llama", width=64))
    loaded = LoadedModel(model, merging_tokenizer(), "pico", gguf=False)
    export_gguf(tmp_path / "whole.gguf", plan_gguf(loaded, {}), {})
    split_gguf(tmp_path / "whole.gguf", tmp_path)
    one, two = load(tmp_path / "whole.gguf"), load(tmp_path / "model-00001-of-00002.gguf")
    ids = torch.arange(40, 50)[None]
    with torch.no_grad():
        assert torch.equal(one.model(ids).logits, two.model(ids).logits)
    assert plan_gguf(two, {}) is not None
    assert [t.name for t in plan_gguf(two, {}).tensors] == [t.name for t in plan_gguf(one, {}).tensors]
    with pytest.raises(
        ModelError, match=r"^model-00002-of-00002\.gguf is part 2 of 2 of a split GGUF file; give model-0"
    ):
        load(tmp_path / "model-00002-of-00002.gguf")
    (tmp_path / "model-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.gguf is not there, one of 2 parts of a GGUF model"):
        load(tmp_path / "model-00001-of-00002.gguf")


def write_adapter(directory, base, **settings):
    content = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["q_proj"]}
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(content | settings))


def test_an_adapter_without_peft_or_without_a_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("evopress.models.adapter.importlib.util.find_spec", lambda name: None)
    write_adapter(tmp_path / "lora", "base")
    with pytest.raises(MissingExtra, match=r"lora is a LoRA adapter for base, which the package peft merges"):
        load(tmp_path / "lora")
    write_adapter(tmp_path / "lora", None)
    with pytest.raises(ModelError, match="names no base_model_name_or_path; write there which model it is for"):
        load(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json cannot be read"):
        load(tmp_path / "lora")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # what peft asks of transformers
def test_an_adapter_is_merged_into_its_model(tmp_path):
    peft = pytest.importorskip("peft")
    write_pico_checkpoint(tmp_path / "base", "llama")
    base = load(tmp_path / "base")
    adapted = peft.get_peft_model(
        base.model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path / "lora")
    ids = torch.arange(40, 50)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
    content = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    content["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(content))
    found = load(tmp_path / "lora")
    with torch.no_grad():
        torch.testing.assert_close(found.model(ids).logits, expected)
    assert "model.layers.0.self_attn.q_proj.weight" not in found.files.names
    assert "model.layers.0.self_attn.k_proj.weight" in found.files.names


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
