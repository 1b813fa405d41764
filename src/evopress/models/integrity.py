"""Is this the model it was, and are its numbers numbers?

Both read every weight once: about a second for each gigabyte.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from evopress.errors import BadWeights

# Keys of a configuration that change with the library or the place of the files but not with what the model computes.
_VOLATILE = {"architectures", "dtype", "quantization_config", "torch_dtype", "transformers_version", "use_cache"}


def fingerprint(model: Any) -> str:
    """sha256 (hex) of the configuration and all parameters' names, types, shapes and bytes; tied ones count once.

    Equal in every process and on every device for equal weights, also after saving and loading. Of the configuration
    only what differs from its class's defaults counts, without names of files and versions.
    """
    digest = hashlib.sha256()
    config = _essentials(model.config.to_diff_dict())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"\n{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(_bytes(parameter))
    return digest.hexdigest()


def check_finite(model: nn.Module) -> None:
    """BadWeights naming the first parameter, embeddings and norms included, that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not all(math.isfinite(bound) for bound in torch.stack(parameter.detach().aminmax()).tolist()):
            raise BadWeights(f"{name} holds NaN or infinity; the checkpoint is damaged, get it again")


def _essentials(config: dict[str, Any]) -> dict[str, Any]:
    kept = {str(key): value for key, value in config.items()}
    kept = {key: value for key, value in kept.items() if key not in _VOLATILE and not key.startswith("_")}
    return {key: _essentials(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _bytes(parameter: Tensor) -> memoryview:
    flat = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]
