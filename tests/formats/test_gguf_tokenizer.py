"""Tokenizers in GGUF's words: kinds, merges or scores, and names of cuts; never a guess."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from evopress.errors import UnsupportedModel
from evopress.formats.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, tokenizer_metadata
from evopress.testing import pico_tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def entries(tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    found = tokenizer_metadata(tokenizer, vocabulary)
    assert len({entry.key for entry in found}) == len(found)
    return {entry.key.removeprefix("tokenizer."): entry.value for entry in found}


def sentencepiece() -> Any:
    """Byte-pair encoding with byte fallback, as Llama 2 and Mistral have it."""
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0x41>", space, "a", "b", "ab", f"{space}ab"]
    merges = [("a", "b"), (space, "ab")]
    tokenizer = Tokenizer(
        BPE({token: index for index, token in enumerate(tokens)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.decoder = decoders.ByteFallback()  # type: ignore[no-untyped-call]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def byte_level(steps: list[Any]) -> Any:
    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def test_byte_fallback_becomes_scores_and_kinds() -> None:
    found = entries(sentencepiece(), 12)
    assert found["ggml.model"] == "llama"
    assert "ggml.pre" not in found
    assert "ggml.merges" not in found
    assert found["ggml.tokens"][-3:] == ["\N{LOWER ONE EIGHTH BLOCK}ab", "[PAD10]", "[PAD11]"]
    control = [CONTROL] * 2
    assert found["ggml.token_type"][1:] == [*control, BYTE, BYTE, *[NORMAL] * 5, UNUSED, UNUSED]
    assert found["ggml.token_type"][0] == UNKNOWN
    scores = found["ggml.scores"]
    assert scores[8] > scores[9] > max(scores[:8])  # the first merge first, then the second, then what none makes
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"], found["ggml.unknown_token_id"]) == (1, 2, 0)
    assert found["ggml.add_space_prefix"] is True


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)], "smollm"),
        (
            [
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
            "llama-bpe",
        ),
        (
            [
                pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
            "qwen2",
        ),
    ],
)
def test_known_cuts_have_llama_cpp_s_names(steps: list[Any], name: str) -> None:
    found = entries(byte_level(steps), 96)
    assert (found["ggml.model"], found["ggml.pre"]) == ("gpt2", name)
    assert found["ggml.add_space_prefix"] is False


def test_an_unknown_cut_is_an_error() -> None:
    strange = byte_level([pre_tokenizers.Whitespace()])
    with pytest.raises(UnsupportedModel, match=r"pre-tokenizer \['Whitespace'\] is not known here, only gpt-2, smollm"):
        tokenizer_metadata(strange, 96)


def test_added_tokens_are_control_or_user_defined() -> None:
    tokenizer = pico_tokenizer()
    tokenizer.add_tokens(["plain"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    found = entries(tokenizer, 98)
    kinds = dict(zip(found["ggml.tokens"], found["ggml.token_type"], strict=True))
    assert (kinds["plain"], kinds["<|im_start|>"]) == (USER_DEFINED, CONTROL)


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="the tokenizer has a token 95, the model has embeddings for 90"):
        tokenizer_metadata(pico_tokenizer(), 90)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(UnsupportedModel, match="tokenizers of type WordLevel cannot be written as GGUF, only BPE"):
        tokenizer_metadata(words, 4)
