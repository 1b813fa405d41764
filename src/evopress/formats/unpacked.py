"""A checkpoint unpacked and run by the class of its model, for what transformers cannot load by itself.

Its converters take one scheme for the experts of all layers, for one, and read those of other layers wrong without a
word: compressed-tensors' own unpacking reads them right. Costs the memory of a second, dense model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from evopress.formats.shards import read_tensors
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
    tensors = read_tensors(directory)
    for module in [name.removesuffix(f".{PACKED[0]}") for name in tensors if name.endswith(f".{PACKED[0]}")]:
        scheme: Any = next(own for own in groups if any(match_name(module, target) for target in own.targets))
        state = {own: tensors.pop(f"{module}.{own}") for own in PACKED}
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        tensors[f"{module}.weight"] = compressor.decompress(state, scheme)["weight"]
    return tensors


def verify_unpacked(
    model: Any, out: Path, searched: Searched, unpack: Callable[[Path], dict[str, torch.Tensor]], consumer: str
) -> Verification:
    """What the class of the `model` makes of the checkpoint in `out` as `unpack` reads it, in the name of a `consumer`.

    Not verified where a second model has no room.
    """
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    if reason := no_room(model, searched.free):
        return Verification(consumer, None, tolerance, reason)
    ids = probe(model.get_input_embeddings().weight.shape[0])
    expected = searched.logits(ids)
    try:
        found = load_unpacked(model, out, unpack, model.dtype).to(searched.device)
    except (OSError, ValueError, KeyError, RuntimeError, StopIteration) as error:
        return Verification(consumer, float("nan"), tolerance, str(error))
    return compare(consumer, expected, logits_of(found, ids), tolerance)


def load_unpacked(model: Any, out: Path, unpack: Callable[[Path], dict[str, torch.Tensor]], dtype: torch.dtype) -> Any:
    """A model of the class and configuration of `model` with the tensors that `unpack` reads in `out`, in `dtype`.

    ValueError where one is missing, and what reading raises.
    """
    kind: Any = type(model)
    with silence():
        found, report = kind.from_pretrained(
            None, config=model.config, state_dict=unpack(out), dtype=dtype, output_loading_info=True
        )
    if report["missing_keys"]:
        raise ValueError(f"{sorted(report['missing_keys'])[0]} is missing")
    return split_experts(found.eval())
