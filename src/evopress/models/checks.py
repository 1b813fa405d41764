"""Checkpoints that look like others and are not: refused in one line before long work, or made to answer plainly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from evopress.errors import DataError, ModelError

FLAGS = ("output_attentions", "output_hidden_states")
"""Settings of a configuration that change what a forward pass returns."""


def require_dense(config: Any, source: str) -> None:
    """ModelError for a checkpoint whose weights are quantized already."""
    about = getattr(config, "quantization_config", None)
    if about is None:
        return
    content = about if isinstance(about, dict) else about.to_dict()
    how = content.get("quant_method") or "an unknown method"
    raise ModelError(
        f"{source} is quantized already ({getattr(how, 'value', how)}); levels are made from dense weights, give the "
        "checkpoint that it was made from"
    )


def answer_plainly(config: Any) -> None:
    """Switch off what makes a model answer with more than logits; attentions need another implementation."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for flag in FLAGS:
            if getattr(part, flag, False):
                setattr(part, flag, False)


def require_fitting_shapes(report: dict[str, Any], source: str) -> None:
    """ModelError naming the first tensor whose shape is not what the configuration says."""
    for name, stored, expected in sorted(report.get("mismatched_keys") or (), key=lambda one: str(one[0])):
        raise ModelError(
            f"{source}: {name} is {tuple(stored)} in the files and {tuple(expected)} by config.json; layers of "
            "different widths need a class of their own"
        )


def require_known_tokens(model: Any, tokenizer: Any, sequences: Iterable[torch.Tensor]) -> None:
    """DataError for text with a token that the embedding has no row for."""
    rows = model.get_input_embeddings().weight.shape[0]
    for sequence in sequences:
        if len(sequence) and (highest := int(sequence.max())) >= rows:
            token = tokenizer.convert_ids_to_tokens(highest)
            raise DataError(
                f"the text holds token {highest} ({token}), but the model's embedding has {rows} rows; give the "
                "tokenizer that belongs to the model, or text without such tokens"
            )
