"""The scaling of rotary embeddings in a GGUF file, which transformers' reader leaves out: without it, another model.

Linear and YaRN scaling are settings of the file; that of Llama 3.1 is a tensor of factors, which is recognised when it
is what the published settings give.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from evopress.errors import ModelError
from evopress.models.gguf_parts import open_gguf

FACTORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_scaling(file: Path, config: Any) -> dict[str, Any]:
    """What transformers' `rope_parameters` lack of the settings in a GGUF file; empty where that is nothing.

    ModelError for a scaling that is none of these.
    """
    reader = open_gguf(file)

    def setting(name: str) -> Any:
        field = reader.get_field(name)
        return None if field is None else field.contents()

    prefix = f"{setting('general.architecture')}.rope"
    kind, factor = setting(f"{prefix}.scaling.type"), setting(f"{prefix}.scaling.factor")
    if kind is None and (linear := setting(f"{prefix}.scale_linear")) not in (None, 1.0):
        kind, factor = "linear", linear
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and factor:
        original = setting(f"{prefix}.scaling.original_context_length") or config.max_position_embeddings
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)}
    if kind not in (None, "none", "linear"):
        raise ModelError(f"{file} has rope scaling of type {kind}; linear, yarn and Llama 3's are read")
    for tensor in reader.tensors:
        if tensor.name == FACTORS:
            return _llama3(file, config, torch.from_numpy(tensor.data.copy()).float())
    return {}


def _llama3(file: Path, config: Any, factors: torch.Tensor) -> dict[str, Any]:
    factor = float(factors.max())
    if torch.equal(factors, torch.ones_like(factors)):
        return {}
    expected = llama3_factors(config.rope_parameters["rope_theta"], 2 * len(factors), factor)
    if not torch.allclose(factors, expected, rtol=1e-3):
        raise ModelError(f"{file} has factors of rotary embeddings that are not those of Llama 3; give safetensors")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def llama3_factors(theta: float, dimensions: int, factor: float) -> torch.Tensor:
    """By what Llama 3.1 divides the frequencies of `dimensions` / 2 rotations, fp32."""
    low, high, original = LLAMA3.values()
    found = []
    for at in range(0, dimensions, 2):
        wavelength = 2 * math.pi * theta ** (at / dimensions)
        smooth = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found)
