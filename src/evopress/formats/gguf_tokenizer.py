"""A Hugging Face tokenizer in GGUF's words: tokens, their kinds, merges or scores, and which tokens are special.

Read from the fast tokenizer's own JSON, so nothing is guessed but one thing: llama.cpp knows how text is cut before
merging only by name, and the names of cuts are a table here. An unknown cut is an error, since another one would
tokenize wrongly without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from evopress.errors import UnsupportedModel
from evopress.formats.gguf_metadata import KeyValue
from evopress.models.bos import adds_bos

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's kinds of tokens

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What is done to text before merging -> llama.cpp's name for it.
_CUTS = {
    ("bytes",): "gpt-2",
    ("digit", "bytes"): "smollm",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
}


def tokenizer_metadata(tokenizer: Any, vocabulary: int) -> list[KeyValue]:
    """All entries about the tokenizer, with `vocabulary` tokens as the embeddings have; rows nobody uses are padded.

    UnsupportedModel for a tokenizer that is not byte-pair encoding, or whose cut is not in the table.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(f"{type(tokenizer).__name__} cannot be written as GGUF, only fast tokenizers")
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model = data["model"]
    if model["type"] != "BPE":
        raise UnsupportedModel(f"tokenizers of type {model['type']} cannot be written as GGUF, only BPE")
    tokens, kinds = _tokens(data, vocabulary)
    entries = [
        KeyValue("tokenizer.ggml.tokens", tokens, "ARRAY", "STRING"),
        KeyValue("tokenizer.ggml.token_type", kinds, "ARRAY", "INT32"),
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        entries = [KeyValue("tokenizer.ggml.model", "llama", "STRING"), *entries]
        entries.append(KeyValue("tokenizer.ggml.scores", _scores(tokens, merges), "ARRAY", "FLOAT32"))
    else:
        name = KeyValue("tokenizer.ggml.pre", _cut(data["pre_tokenizer"]), "STRING")
        entries = [KeyValue("tokenizer.ggml.model", "gpt2", "STRING"), name, *entries]
        if merges:
            entries.append(KeyValue("tokenizer.ggml.merges", merges, "ARRAY", "STRING"))
    return [*entries, *_special(tokenizer)]


def _tokens(data: dict[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """Texts and kinds of all tokens by number."""
    tokens = [f"[PAD{index}]" for index in range(vocabulary)]
    kinds = [UNUSED] * vocabulary
    model = data["model"]
    added = {token["id"]: token for token in data["added_tokens"]}
    largest = max([*model["vocab"].values(), *added])
    if largest >= vocabulary:
        raise UnsupportedModel(f"the tokenizer has a token {largest}, the model has embeddings for {vocabulary}")
    for text, index in model["vocab"].items():
        byte = bool(model.get("byte_fallback")) and len(text) == 6 and text.startswith("<0x")
        tokens[index], kinds[index] = text, BYTE if byte else NORMAL
    for index, token in added.items():
        tokens[index], kinds[index] = token["content"], CONTROL if token["special"] else USER_DEFINED
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is not None and model.get("byte_fallback"):
        kinds[unknown] = UNKNOWN
    return tokens, kinds


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """What llama.cpp merges by, the largest first: minus the rank of the first merge that makes a token."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _cut(pre_tokenizer: dict[str, Any] | None) -> str:
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    done: list[str] = []
    for step in steps:
        if step["type"] == "Split" and "Regex" in step["pattern"]:
            done.append(step["pattern"]["Regex"])
        elif step["type"] == "Digits" and step["individual_digits"]:
            done.append("digit")
        elif step["type"] == "ByteLevel":
            done += ["bytes"] if step.get("use_regex", True) else []
        else:
            done.append(step["type"])
    if tuple(done) not in _CUTS:
        known = ", ".join(_CUTS.values())
        raise UnsupportedModel(f"llama.cpp's name for the pre-tokenizer {done} is not known here, only {known}")
    return _CUTS[tuple(done)]


def _special(tokenizer: Any) -> Iterator[KeyValue]:
    """Numbers of special tokens, and what is put around a text."""
    for name, short in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        number = getattr(tokenizer, f"{short}_token_id", None)
        if number is not None:
            yield KeyValue(f"tokenizer.ggml.{name}_token_id", number, "UINT32")
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    yield KeyValue("tokenizer.ggml.add_bos_token", adds_bos(tokenizer), "BOOL")
    yield KeyValue("tokenizer.ggml.add_eos_token", whole[len(bare) :] == [tokenizer.eos_token_id], "BOOL")
    first = tokenizer.convert_ids_to_tokens(bare[:1])[0]
    yield KeyValue("tokenizer.ggml.add_space_prefix", first.startswith("\N{LOWER ONE EIGHTH BLOCK}"), "BOOL")
    if isinstance(tokenizer.chat_template, str):
        yield KeyValue("tokenizer.chat_template", tokenizer.chat_template, "STRING")
