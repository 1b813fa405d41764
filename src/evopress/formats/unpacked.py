"""A checkpoint of compressed-tensors as that library itself unpacks it, in the class of its model.

For what transformers cannot load: its converters take one scheme for the experts of all layers, and read those of other
layers wrong without a word. Costs the memory of a second, dense model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from evopress.formats.verification import HALF_TOLERANCE, TOLERANCE, Searched, Verification, compare, no_room, probe
from evopress.formats.verification import logits as logits_of
from evopress.models.experts import split_experts
from evopress.models.load import silence

PACKED = ("weight_packed", "weight_scale", "weight_shape")


def unpacked(directory: Path) -> dict[str, torch.Tensor]:
    """The dense tensors of a checkpoint by name; each packed weight by the scheme that config.json names for it."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils.match import match_name

    announced = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    groups = QuantizationConfig.model_validate(announced).config_groups.values()
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
    for module in [name.removesuffix(f".{PACKED[0]}") for name in tensors if name.endswith(f".{PACKED[0]}")]:
        scheme: Any = next(own for own in groups if any(match_name(module, target) for target in own.targets))
        state = {own: tensors.pop(f"{module}.{own}") for own in PACKED}
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        tensors[f"{module}.weight"] = compressor.decompress(state, scheme)["weight"]
    return tensors


def verify_unpacked(model: Any, out: Path, searched: Searched) -> Verification:
    """What the class of the `model` makes of the checkpoint in `out`, unpacked; not verified where it has no room."""
    tolerance, consumer = TOLERANCE.get(model.dtype, HALF_TOLERANCE), "compressed-tensors"
    if reason := no_room(model, searched.free):
        return Verification(consumer, None, tolerance, reason)
    ids = probe(model.get_input_embeddings().weight.shape[0])
    expected = searched.logits(ids)
    kind: Any = type(model)
    try:
        with silence():
            found, report = kind.from_pretrained(
                None, config=model.config, state_dict=unpacked(out), dtype=model.dtype, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, StopIteration) as error:
        return Verification(consumer, float("nan"), tolerance, str(error))
    if report["missing_keys"]:
        return Verification(consumer, float("nan"), tolerance, f"{sorted(report['missing_keys'])[0]} is missing")
    found = split_experts(found.eval().to(searched.device))
    return compare(consumer, expected, logits_of(found, ids), tolerance)
