"""A short made-up input, and what counts as the same answer to it.

Structure is learned, and our own forward pass checked, on eight tokens: cheap even for a large model on a CPU.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from evopress.errors import ModelError, UnsupportedModel, first_line

LENGTH = 8


def probe_ids(model: Any) -> Tensor:
    """Token ids (1, LENGTH) from the middle of the vocabulary, away from the special tokens at either end."""
    embedding = model.get_input_embeddings().weight
    vocabulary = embedding.shape[0]
    ids: Tensor = vocabulary // 4 + torch.arange(LENGTH, device=embedding.device) * max(1, vocabulary // (4 * LENGTH))
    ids = ids % vocabulary
    return ids.unsqueeze(0)


def answer(model: Any, ids: Tensor, *, use_cache: bool = False) -> Any:
    """What the model's own forward pass returns for token ids (batch, length), read as text that it answers with.

    A model that looks back and forth over its prompt, and only back over its answer, is told that all is answer.
    """
    both_ways = getattr(model.config.get_text_config(), "use_bidirectional_attention", None) is True
    if both_ways and "token_type_ids" in signature(model.forward).parameters:
        return model(input_ids=ids, token_type_ids=torch.ones_like(ids), use_cache=use_cache)
    return model(input_ids=ids, use_cache=use_cache)


def stock_logits(model: Any, ids: Tensor) -> Tensor:
    """The fp32 logits (batch, length, vocabulary) of the model's own forward pass.

    ModelError in training mode, UnsupportedModel where the model itself fails.
    """
    if model.training:
        raise ModelError(
            f"{type(model).__name__} is in training mode, where dropout is random; call model.eval() first"
        )
    with torch.no_grad():
        try:
            logits: Tensor = answer(model, ids).logits
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            raise UnsupportedModel(
                f"{type(model).__name__} itself cannot answer {ids.shape[1]} tokens as "
                f"{str(model.dtype).removeprefix('torch.')} ({first_line(error)}); try another --dtype"
            ) from error
    return logits.float()


def close(ours: Tensor, stock: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results of a model in `dtype` agree up to rounding, relative to the largest number in `stock`."""
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    return bool((ours - stock).abs().max() <= tolerance * stock.abs().max())
