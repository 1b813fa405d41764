"""Pico models for tests: every supported architecture with random weights, made in code in milliseconds, offline.

Weights are drawn wider than the usual initialisation, and norms are perturbed, so that a block left out, a mask too
wide or a norm forgotten shows in the logits. Shipped, so that authors of plug-ins test against the same models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

_AutoModel: Any = transformers.AutoModelForCausalLM
_FastTokenizer: Any = transformers.PreTrainedTokenizerFast

SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"  # how byte-level tokenizers write a space
WINDOW = 8  # of the architectures with sliding-window attention: short, so that a dozen tokens reach over it

# Architecture -> what its configuration needs beyond the shape, in that configuration's own words.
_EXTRA: dict[str, dict[str, Any]] = {
    "falcon": {"ffn_hidden_size": 96, "multi_query": True, "parallel_attn": True},
    "gemma2": {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": WINDOW, "final_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": WINDOW, "sliding_window_pattern": 2},
    "gpt2": {"n_inner": 96},
    "gpt_neox": {"use_parallel_residual": True, "rotary_pct": 0.5},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "olmo2": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 32},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
}

ARCHITECTURES: tuple[str, ...] = tuple(_EXTRA)
"""Names that `pico_model` knows: transformers' model types."""


def pico_model(architecture: str, seed: int = 0, blocks: int = 3, width: int = 48, vocabulary: int = 96) -> Any:
    """A random causal language model in fp32 and evaluation mode; equal arguments give equal weights.

    The MLP is 96 wide, there are 4 attention heads (2 for keys and values where the architecture allows it), and
    `width` must be a multiple of 8. KeyError for an unknown architecture.

    >>> model = pico_model("llama", blocks=2)
    >>> sum(parameter.numel() for parameter in model.parameters())
    50928
    """
    options = _shape(blocks, width, vocabulary) | _EXTRA[architecture]
    return random_model(transformers.AutoConfig.for_model(architecture, **options), seed)


def random_model(config: Any, seed: int = 0) -> Any:
    """The causal language model of any transformers configuration, filled like the pico models."""
    with torch.random.fork_rng(devices=[]):
        model = _AutoModel.from_config(config, dtype=torch.float32).eval()
    return randomize(model, seed)


def randomize(model: Any, seed: int = 0) -> Any:
    """Fill a model's parameters like those of the pico models; the model itself is returned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * 0.15)
            else:
                parameter.add_(noise * 0.1)
    return model


def pico_tokenizer(vocabulary: int = 96, *, bos: bool = False) -> Any:
    """One token for each printable ASCII character (as many as fit), and `<unk>`, which also ends and pads.

    With `bos` there is `<s>`, too, and it is put before every text, as the tokenizers of Gemma and Llama do. Byte-level
    like GPT-2's and Qwen's, without merges: the one kind that every tokenizer class reads the same way.
    """
    known = ["<unk>", *(["<s>"] if bos else []), SPACE, *map(chr, range(33, 127))][:vocabulary]
    vocabulary_ids = {token: index for index, token in enumerate(known)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary_ids, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "eos_token": "<unk>", "pad_token": "<unk>"}
    if bos:
        special["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _FastTokenizer(tokenizer_object=tokenizer, model_max_length=256, **special)


def merging_tokenizer() -> Any:
    """Byte-level BPE with 300 tokens, trained on a sentence: readers of GGUF files want merges."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat while it rained"] * 20, trainer)
    return _FastTokenizer(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>", pad_token="<|end|>")


def gguf_config(architecture: str, *, width: int = 256, blocks: int = 2, **options: Any) -> Any:
    """A transformers configuration for models to be written as GGUF, with room for the tokens of `merging_tokenizer`.

    `options` are further settings, or others than these.
    """
    shape = _shape(blocks, width, 320) | {"intermediate_size": 2 * width, "bos_token_id": 0}
    return transformers.AutoConfig.for_model(architecture, **shape | options)


def write_pico_checkpoint(
    directory: Path | str, architecture: str, seed: int = 0, blocks: int = 3, width: int = 48, *, bos: bool = False
) -> None:
    """Save a pico model and its tokenizer like a checkpoint from the hub: safetensors, config.json, tokenizer.json."""
    pico_model(architecture, seed, blocks, width).save_pretrained(directory)
    pico_tokenizer(bos=bos).save_pretrained(directory)


def _shape(blocks: int, width: int, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 96,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
