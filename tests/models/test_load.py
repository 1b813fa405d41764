import json

import huggingface_hub.constants
import pytest
import torch
import transformers

import evopress.models.load as load
from evopress.errors import MissingExtra, ModelError
from evopress.models import Runner, choose_dtype, describe, fingerprint, load_model
from evopress.testing import ARCHITECTURES, pico_model, pico_tokenizer, write_pico_checkpoint

torch.set_num_threads(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_loads_as_it_was_saved(architecture, tmp_path, capfd):
    write_pico_checkpoint(tmp_path, architecture)
    capfd.readouterr()
    loaded = load_model(str(tmp_path), dtype=torch.float32)
    assert capfd.readouterr() == ("", "")
    assert fingerprint(loaded.model) == fingerprint(pico_model(architecture))
    assert not loaded.model.training
    assert (loaded.source, loaded.gguf) == (str(tmp_path), False)
    ids = loaded.tokenizer("Tokens, one by one.")["input_ids"]
    assert loaded.tokenizer.decode(ids) == "Tokens, one by one."
    Runner(loaded.model, describe(loaded.model))


def test_dtype_is_honoured(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    assert load_model(str(tmp_path), dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["/no/such/place", "./nothing", "a/b/c", "model.gguf", ""])
def test_a_path_that_is_not_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source:
        with pytest.raises(
            ModelError, match=f"^model not found: {source}; give a directory, a .gguf file, a hub id or demo$"
        ):
            load_model(source, dtype=torch.float32)
    else:
        with pytest.raises(ModelError, match=r"no config\.json"):
            load_model(source, dtype=torch.float32)


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^model not found: someone/no-such-model; give"):
        load_model("someone/no-such-model", dtype=torch.float32)


def test_a_directory_without_a_configuration(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path), dtype=torch.float32)


def test_pickled_weights_are_refused(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle files, which can run code: convert them to model\.safetensors"):
        load_model(str(tmp_path), dtype=torch.float32)


def test_no_tokenizer(tmp_path):
    pico_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer in .*; expected tokenizer\.json"):
        load_model(str(tmp_path), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertModel", "T5ForConditionalGeneration"])
def test_other_kinds_of_models(kind, tmp_path):
    configs = {
        "Bert": {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
        "T5": {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4},
    }
    family = "T5" if kind.startswith("T5") else "Bert"
    config = getattr(transformers, f"{family}Config")(**configs[family])
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    pico_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is not a causal language model but {kind}"):
        load_model(str(tmp_path), dtype=torch.float32)


def test_unknown_model_type_is_one_line(tmp_path):
    write_pico_checkpoint(tmp_path, "llama")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(ModelError, match=r"^cannot read the model .*nonesuch") as caught:
        load_model(str(tmp_path), dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file at all"])
def test_damaged_weights_are_one_line(tmp_path, damage):
    write_pico_checkpoint(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match=r"^cannot read the model") as caught:
        load_model(str(tmp_path), dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_named_not_invented(tmp_path):
    write_pico_checkpoint(tmp_path, "llama", blocks=2)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks 9 weights, the first is model\.layers\.2\.input_layernorm"):
        load_model(str(tmp_path), dtype=torch.float32)


def test_demo_without_its_package(monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install evopress\[demo\]"):
        load_model("demo", dtype=torch.float32)


def test_dtype_follows_the_machine(monkeypatch):
    assert choose_dtype("cuda") == torch.bfloat16
    for native, expected in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(load, "_native_bfloat16", lambda native=native: native)
        assert choose_dtype() == expected


@pytest.mark.slow
def test_demo_loads_silently_and_saves_as_a_plain_checkpoint(tmp_path, capfd):
    loaded = load_model("demo", dtype=torch.float32)
    assert capfd.readouterr() == ("", "")
    assert loaded.gguf
    assert len(describe(loaded.model).linears) == 30 * 7
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), dtype=torch.float32)
    assert fingerprint(again.model) == fingerprint(loaded.model)
    assert again.tokenizer("The cat sat.")["input_ids"] == loaded.tokenizer("The cat sat.")["input_ids"]
