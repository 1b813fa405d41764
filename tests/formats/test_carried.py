"""A multimodal wrapper: searched on text, everything else as it was, byte for byte, and the same answer to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.conftest import SMALL

import evopress
from evopress.formats.hf import readable_by_older
from evopress.models import describe, load_model
from evopress.testing import pico_tokenizer, randomize
from evopress.testing.tiny import tiny_config

torch.set_num_threads(1)


def write_wrapper(directory: Path) -> None:
    """A tiny Llava in two dtypes, with a processor's file and a tensor that its class does not know."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = transformers.LlavaForConditionalGeneration(tiny_config("llava")).eval()
    randomize(model).save_pretrained(directory)
    pico_tokenizer().save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"image_processor_type":   "CLIPImageProcessor"}')
    weights = load_file(directory / "model.safetensors")
    half = {name: tensor.half() if "vision" in name else tensor for name, tensor in weights.items()}
    half["mtp.weight"] = torch.ones(3, dtype=torch.float8_e4m3fn)
    save_file(half, directory / "model.safetensors", metadata={"format": "pt"})


def answer(directory: Path) -> torch.Tensor:
    """Logits of the last tokens of a prompt that begins with an image."""
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[model.config.image_token_id] * 16 + [30, 31, 32]])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, pixel_values=image).logits[0, -3:]
    return logits


def test_all_that_text_does_not_touch_is_carried_through(tmp_path: Path, text: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "run"
    write_wrapper(source)
    loaded = load_model(str(source), dtype=torch.float32)
    mapped = describe(loaded.model)
    assert loaded.auto == "AutoModelForImageTextToText"
    assert mapped.tower == "model.language_model"
    options = SMALL | {"levels": (8,), "bits": 8, "dtype": "float32"}
    evopress.quantize(str(source), data=str(text), out=out, **options)
    before, after = load_file(source / "model.safetensors"), load_file(out / "export/model.safetensors")
    assert before.keys() == after.keys()
    units = {loaded.files.names[linear.view.parameter] for linear in mapped.linears} if loaded.files else set()
    for name, tensor in before.items():
        same = tensor.dtype == after[name].dtype and torch.equal(
            tensor.view(torch.uint8).flatten(), after[name].view(torch.uint8).flatten()
        )
        assert same == (name not in units), name
    processor = "preprocessor_config.json"
    assert (out / "export" / processor).read_bytes() == (source / processor).read_bytes()
    expected = answer(source)
    torch.testing.assert_close(answer(out / "export"), expected, rtol=0, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("tied", [True, False])
def test_older_readers_find_rope_and_the_head(tied: bool) -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}
    content = {"text_config": {"rope_parameters": rope, "tie_word_embeddings": True}, "tie_word_embeddings": True}
    found = readable_by_older(content, tied)
    assert found["text_config"]["rope_theta"] == 5e5
    assert found["text_config"]["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    half = readable_by_older({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, tied)
    assert half["rotary_pct"] == half["partial_rotary_factor"] == 0.5
    assert found["tie_word_embeddings"] is found["text_config"]["tie_word_embeddings"] is tied
