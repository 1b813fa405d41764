"""What llama.cpp must know of a model besides its weights: the configuration in GGUF's words.

One row of a table for each architecture whose blocks llama.cpp computes as transformers does. What its code ignores or
has built in (a sliding window, a pattern of layers, an attention scale) is checked: a model it would compute
differently is refused, never exported silently wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evopress.errors import UnsupportedModel

_SCALARS = {"UINT8": 1, "INT8": 1, "BOOL": 1, "UINT16": 2, "INT16": 2, "UINT32": 4, "INT32": 4, "FLOAT32": 4}


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One entry of a GGUF header; `type` and, for arrays, `item` are names of gguf's value types."""

    key: str
    value: Any
    type: str
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a transformers model type looks in GGUF.

    `interleaved`: rows of q and k go in pairs as llama.cpp's older rotation wants them. `norm_offset` is what the
    weights of norms lack (Gemma stores them less one). `windowed`: llama.cpp knows its sliding window; for the others
    the context ends at the window, up to which both compute the same. Of a mixture `normalized` says whether llama.cpp
    lets the weights of a token's experts add up to one; None: it has none. `grouped`: heads may share keys. `read`:
    transformers reads such files.
    """

    name: str
    interleaved: bool = False
    norm_offset: float = 0.0
    windowed: bool = False
    activation: str = "silu"
    normalized: bool | None = None
    grouped: bool = True
    read: bool = True


_ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma2": Architecture("gemma2", norm_offset=1.0, windowed=True, activation="gelu_pytorch_tanh"),
    "gemma3_text": Architecture("gemma3", norm_offset=1.0, windowed=True, activation="gelu_pytorch_tanh"),
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "mixtral": Architecture("llama", interleaved=True, normalized=True, read=False),
    "olmoe": Architecture("olmoe", normalized=False, grouped=False, read=False),
    "phi3": Architecture("phi3"),
    "qwen2": Architecture("qwen2"),
    "qwen2_moe": Architecture("qwen2moe", normalized=False),
    "qwen3": Architecture("qwen3"),
    "qwen3_moe": Architecture("qwen3moe", normalized=True),
}


def architecture(config: Any) -> Architecture:
    """The row of the table for a transformers configuration; UnsupportedModel lists those that exist."""
    found = _ARCHITECTURES.get(config.model_type)
    if found is None:
        known = ", ".join(_ARCHITECTURES)
        raise UnsupportedModel(f"{config.model_type} models cannot be written as GGUF, only {known}")
    return found


def head_width(config: Any) -> int:
    """Numbers of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def model_metadata(config: Any) -> list[KeyValue]:
    """All entries under the architecture's name; UnsupportedModel for what llama.cpp would compute differently."""
    found = architecture(config)
    numbers = [*_sizes(config, found), *_rope(config), *_windows(config, found), *_experts(config, found)]
    return [
        KeyValue(f"{found.name}.{key}", value, "STRING" if isinstance(value, str) else _number(value))
        for key, value in numbers
    ]


def source_metadata(reader: Any) -> Iterator[KeyValue]:
    """A source file's entries, but for those that describe its own layout and mix of types."""
    for field in reader.fields.values():
        own = field.name.startswith(("GGUF.", "split.")) or field.name in ("general.alignment", "general.file_type")
        if not own and not (field.types[0].name == "ARRAY" and not len(field.data)):
            item = field.types[-1].name if len(field.types) > 1 else None
            yield KeyValue(field.name, field.contents(), field.types[0].name, item)


def header_bytes(metadata: Iterable[KeyValue]) -> int:
    """What a file begins with, but for the announcements of its tensors and without padding."""
    return 4 + 4 + 8 + 8 + sum(map(_entry_bytes, metadata))


def rope_factors(config: Any) -> torch.Tensor | None:
    """What Llama 3 divides its rotary frequencies by, fp32 (head width / 2,), which GGUF keeps as a tensor; else None.

    Long waves are slowed down by the factor, short ones kept, those between mixed (Llama 3.1's reference code).
    """
    rope = _rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return None
    width = head_width(config)
    frequencies = rope["rope_theta"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    waves = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # how often each fits the context
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    factors: torch.Tensor = 1 / (kept + (1 - kept) / rope["factor"])
    return factors.float()


def _number(value: float) -> str:
    return "UINT32" if isinstance(value, int) else "FLOAT32"


def _sizes(config: Any, found: Architecture) -> Iterator[tuple[str, Any]]:
    """Widths and counts, and the constants of norms and logits."""
    context, window = config.max_position_embeddings, getattr(config, "sliding_window", None)
    width = head_width(config)
    yield "block_count", config.num_hidden_layers
    yield "context_length", context if found.windowed or not window else min(context, window)
    yield "embedding_length", config.hidden_size
    yield "feed_forward_length", config.intermediate_size
    yield "attention.head_count", config.num_attention_heads
    yield "attention.head_count_kv", config.num_key_value_heads
    yield "attention.key_length", width
    yield "attention.value_length", width
    yield "attention.layer_norm_rms_epsilon", float(config.rms_norm_eps)
    yield "vocab_size", config.vocab_size
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None):
            yield name, float(getattr(config, name))
    if getattr(config, "query_pre_attn_scalar", width) != width:
        raise UnsupportedModel(f"llama.cpp scales attention by the head width {width}, this model by another number")
    if not found.grouped and config.num_key_value_heads != config.num_attention_heads:
        raise UnsupportedModel(
            f"{config.num_attention_heads} heads share {config.num_key_value_heads} keys, which llama.cpp does not "
            f"compute in {found.name}"
        )
    _check_activation(config, found.activation)


def _rope(config: Any) -> Iterator[tuple[str, Any]]:
    rope = _rope_parameters(config)
    width = head_width(config)
    yield "rope.dimension_count", int(width * rope.get("partial_rotary_factor", 1.0))
    yield "rope.freq_base", float(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        yield "rope.scaling.type", "linear"
        yield "rope.scaling.factor", float(rope["factor"])
    elif rope["rope_type"] not in ("default", "llama3"):
        raise UnsupportedModel(
            f"rotary embeddings of type {rope['rope_type']!r} cannot be written as GGUF, only default, linear, llama3"
        )


def _windows(config: Any, found: Architecture) -> Iterator[tuple[str, Any]]:
    """Which layers look back over the window only: all but every so many-th."""
    if not found.windowed:
        return
    kinds = list(config.layer_types)
    full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    period = full[0] + 1 if full else len(kinds) + 1
    if full != list(range(period - 1, len(kinds), period)):
        raise UnsupportedModel(f"layers with full attention are {full}, llama.cpp knows only every n-th")
    yield "attention.sliding_window", config.sliding_window
    yield "attention.sliding_window_pattern", period
    local = config.rope_parameters.get("sliding_attention")
    if local is not None:
        if local["rope_type"] != "default":
            raise UnsupportedModel(f"rotary embeddings of type {local['rope_type']!r} in layers with a sliding window")
        yield "rope.freq_base_swa", float(local["rope_theta"])


def _experts(config: Any, found: Architecture) -> Iterator[tuple[str, Any]]:
    """How many experts there are, how many a token has, and their widths; every block has to be a mixture."""
    if found.normalized is None:
        return
    yield "expert_count", getattr(config, "num_local_experts", None) or config.num_experts
    yield "expert_used_count", config.num_experts_per_tok
    for key, name in (("expert", "moe_intermediate_size"), ("expert_shared", "shared_expert_intermediate_size")):
        if getattr(config, name, None):
            yield f"{key}_feed_forward_length", getattr(config, name)
    if getattr(config, "norm_topk_prob", found.normalized) != found.normalized:
        raise UnsupportedModel(
            f"norm_topk_prob is {config.norm_topk_prob}, llama.cpp computes with {found.normalized} in {found.name}"
        )
    if getattr(config, "mlp_only_layers", None) or getattr(config, "decoder_sparse_step", 1) != 1:
        raise UnsupportedModel(f"some blocks have no experts; llama.cpp wants them in all blocks of {found.name}")
    if getattr(config, "clip_qkv", None):
        raise UnsupportedModel(f"clip_qkv is {config.clip_qkv}, which is not written to GGUF files")


def _rope_parameters(config: Any) -> dict[str, Any]:
    """Those of the layers with full attention, where layers differ."""
    parameters: dict[str, Any] = config.rope_parameters
    full: dict[str, Any] = parameters.get("full_attention", parameters)
    return full


def _check_activation(config: Any, expected: str) -> None:
    found = getattr(config, "hidden_activation", None) or config.hidden_act
    if found != expected:
        raise UnsupportedModel(f"the activation is {found!r}, llama.cpp computes {expected!r} in {config.model_type}")


def _entry_bytes(entry: KeyValue) -> int:
    size = 8 + len(entry.key.encode()) + 4
    if entry.item is None:
        return size + _value_bytes(entry.value, entry.type)
    return size + 4 + 8 + sum(_value_bytes(value, entry.item) for value in entry.value)


def _value_bytes(value: Any, kind: str) -> int:
    return 8 + len(value.encode()) if kind == "STRING" else _SCALARS.get(kind, 8)
