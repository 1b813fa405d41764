"""Tiny configurations of any architecture that transformers knows, found by the names that sizes have in them.

Every configuration is asked for its defaults; whatever is the name of a size is made small, in the parts of a
multimodal model too, and lists with an entry for each block are left to the class. What an architecture needs beyond
that is in a table. Not every class can be made small so; the error is transformers' own.
"""

from __future__ import annotations

from typing import Any

import transformers

BLOCKS, VOCABULARY = 4, 96

# A size's names in the configurations of transformers -> what it is here.
_SIZES: dict[str, int] = {
    **dict.fromkeys(
        ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"], BLOCKS
    ),
    **dict.fromkeys(["num_encoder_layers", "num_decoder_layers", "num_blocks", "depth"], BLOCKS),
    **dict.fromkeys(
        ["vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "unpadded_vocab_size"], VOCABULARY
    ),
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "dim_model", "emb_dim", "embed_dim", "embedding_dim", "embedding_size"], 64
    ),
    **dict.fromkeys(["word_embed_proj_dim", "lru_width", "attention_hidden_size", "input_embedding_size"], 64),
    **dict.fromkeys(
        ["output_embedding_size", "projection_dim", "out_hidden_size", "text_hidden_size", "output_dim"], 64
    ),
    **dict.fromkeys(["projector_hidden_size", "vision_output_dim", "encoder_hidden_size"], 64),
    **dict.fromkeys(["projection_intermediate_size", "image_token_embed_dim", "image_text_hidden_size"], 64),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"], 4),
    **dict.fromkeys(["swa_num_attention_heads", "attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "num_query_groups", "swa_num_key_value_heads"], 2),
    **dict.fromkeys(["head_dim", "dim_head", "kv_channels", "swa_head_dim", "qk_nope_head_dim", "v_head_dim"], 16),
    **dict.fromkeys(
        ["qk_rope_head_dim", "global_head_dim", "query_pre_attn_scalar", "attention_head_size", "d_head"], 16
    ),
    **dict.fromkeys(["attention_head_dim", "rotary_dim", "d_rel"], 16),
    "qk_head_dim": 32,
    **dict.fromkeys(
        ["intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff", "d_inner"],
        128,
    ),
    **dict.fromkeys(["ffn_hidden_size", "feed_forward_size", "dense_intermediate_size", "mlp_dim"], 128),
    **dict.fromkeys(["intermediate_size_mlp", "mamba_d_ssm", "block_ff_dim"], 128),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "o_lora_rank", "hidden_size_per_layer_input", "laurel_rank"], 32),
    **dict.fromkeys(["shared_expert_intermediate_size", "shared_experts_intermediate_size"], 32),
    **dict.fromkeys(["moe_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"], 32),
    **dict.fromkeys(["moe_shared_expert_intermediate_size", "router_hidden_size", "adapter_rank"], 32),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(
        ["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "mamba_n_groups", "n_groups"], 2
    ),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "topk_group", "n_group"], 1),
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers", "num_nextn_predict_layers", "mamba_ngroups"], 1),
    **dict.fromkeys(
        ["sliding_window", "attention_window_size", "sliding_window_size", "window_size", "local_attention"], 8
    ),
    **dict.fromkeys(["attention_chunk_size", "mamba_chunk_size", "chunk_size", "index_topk", "index_block_size"], 8),
    **dict.fromkeys(
        ["mamba_d_state", "state_size", "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim"], 16
    ),
    **dict.fromkeys(["mamba_head_dim", "mamba_headdim", "mamba_d_head", "linear_head_dim", "index_head_dim"], 16),
    **dict.fromkeys(["time_step_rank", "mamba_dt_rank"], 8),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "index_n_heads"], 4),
    **dict.fromkeys(["num_mem_blocks", "n_mamba_heads"], 2),
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads"], 8),
    **dict.fromkeys(["patch_size", "posemb_grid_size"], 8),
    **dict.fromkeys(["image_size", "img_size"], 32),
    **dict.fromkeys(["num_position_embeddings", "max_num_patches", "num_patches"], 16),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"], 256),
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "eod_token_id"], 0),
    **dict.fromkeys(["additional_vocab_size", "ple_embed_dim"], 32),
    **dict.fromkeys(["codebook_size", "num_embeddings", "mel_vocab_size"], 32),
}
# Where the text is of 96 tokens, those that stand for images and the like are the last of them.
_TOKENS = ("_token_id", "_token_index", "_start_id", "_end_id", "_newline_id", "image_patch_id")
_VISION: dict[str, Any] = {"num_hidden_layers": 2, "depth": 2, "num_layers": 2, "num_key_value_heads": 4}

_MROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
_GLM_ROPE: dict[str, Any] = {"rope_parameters": _MROPE["rope_parameters"] | {"partial_rotary_factor": 1.0}}
_LINEAR_FULL = {"layer_types": ["linear_attention", "full_attention"] * 2}

# Model type, of a part too -> what its configuration needs beyond small sizes. The names are its own.
_NEEDS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"n_group": 1, "topk_group": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "chameleon": {"vocabulary_map": {"<image>": 95}},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _MROPE["rope_parameters"]),
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4},
    },
    "dots3_note": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "intermediate_size": 128,
        "num_hidden_layers": 5,
        "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
        "activation_sparsity_pattern": [0.0] * 5,
    },
    "emu3": {"vocabulary_map": {"<image>": 95}},
    "hunyuan_vl_text": _MROPE,
    "hunyuan_vl": _MROPE,
    "glm4v_moe_text": {
        "rope_parameters": _MROPE["rope_parameters"] | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
    },
    "glm4v_text": _GLM_ROPE,
    "glm46v_text": _GLM_ROPE,
    "glm_ocr_text": _GLM_ROPE,
    "glmga_text": _GLM_ROPE,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 8, "mamba_d_head": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "qwen3_5_text": _LINEAR_FULL,
    "qwen3_5_moe_text": _LINEAR_FULL,
    "qwen3_next": _LINEAR_FULL,
    "paddleocr_vl_text": _MROPE,
    "qwen2_5_omni_text": _MROPE,
    "qwen2_5_vl_text": _MROPE,
    "qwen2_vl_text": _MROPE,
    "reformer": {"axial_pos_embds_dim": (32, 32), "axial_pos_shape": (16, 16)},
    "zamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_hidden_layers": 6,
        "attention_hidden_size": 128,
        "num_key_value_heads": 4,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_key_value_heads": 4,
        "attention_head_dim": 32,
        "use_shared_attention_adapter": True,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str, **options: Any) -> Any:
    """A configuration of `model_type` with 4 blocks, width 64 and 96 tokens; `options` are further settings of it.

    >>> config = tiny_config("qwen3", num_hidden_layers=2)
    >>> config.hidden_size, config.num_hidden_layers, config.vocab_size
    (64, 2, 96)
    """
    default = transformers.CONFIG_MAPPING[model_type]()
    kind = type(default)
    encoder = getattr(default, "is_decoder", None) is False and not default.is_encoder_decoder
    return kind(
        **_small(kind, 1)
        | ({"is_decoder": True} if encoder else {})
        | _parts(kind, model_type)
        | _NEEDS.get(model_type, {})
        | options
    )


def _parts(kind: Any, model_type: str) -> dict[str, Any]:
    default = kind()
    found: dict[str, Any] = {}
    for name, _own in kind.sub_configs.items():
        part = getattr(default, name, None)
        if part is None:
            continue
        vision = part is not default.get_text_config()
        sub = type(part)
        found[name] = (
            _small(sub, 0, part)
            | (_vision(part) if vision else {})
            | _parts(sub, part.model_type)
            | _NEEDS.get(part.model_type, {})
        )
        found[name]["model_type"] = part.model_type
    return found


def _vision(part: Any) -> dict[str, Any]:
    return {name: value for name, value in _VISION.items() if hasattr(part, name)}


def _small(kind: Any, tokens: int, default: Any = None) -> dict[str, Any]:
    """The sizes of a configuration, small; and the numbers of its special tokens."""
    known = vars(kind() if default is None else default)
    found = {name: size for name, size in _SIZES.items() if name in known and _is_size(known[name])}
    specials = [
        name for name, value in known.items() if name.endswith(_TOKENS) and _is_size(value) and name not in found
    ]
    if "kv_lora_rank" in known:  # latent attention has as many heads for keys as for queries
        found["num_key_value_heads"] = 4
    return found | {name: VOCABULARY - 1 - at % 30 for at, name in enumerate(sorted(specials))}


def _is_size(value: Any) -> bool:
    return isinstance(value, int | None) and not isinstance(value, bool)
