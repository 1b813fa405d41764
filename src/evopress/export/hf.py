"""A stock Hugging Face checkpoint: dequantized weights in the model's dtype, configuration and tokenizer included.

Plain `AutoModelForCausalLM.from_pretrained` loads it; it has the size of the dense model. Written shard by shard, so
memory holds one shard; the directory appears under its name only when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from evopress.export.staging import staged
from evopress.models import LoadedModel

SHARD_BYTES = 2_000_000_000


def export_checkpoint(
    directory: Path,
    loaded: LoadedModel,
    compressed: Mapping[str, Callable[[torch.dtype], torch.Tensor]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the checkpoint to `directory`, replacing an earlier export; RunError when something else is there.

    `compressed` maps the names of parameters that differ from the dense model's to what makes their tensors.
    """
    tensors = dict(stored_tensors(loaded.model))
    with staged(directory, sum(tensor.nbytes for tensor in tensors.values())) as partial:
        _write_shards(partial, tensors, compressed, progress)
        save_rest(loaded, partial)


def _write_shards(
    directory: Path,
    tensors: dict[str, torch.Tensor],
    compressed: Mapping[str, Callable[[torch.dtype], torch.Tensor]],
    progress: Callable[[int, int], None],
) -> None:
    """The weights' files and, if they are several, their index."""
    shards = _plan_shards(tensors)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        content = {
            name: (compressed[name](tensors[name].dtype) if name in compressed else tensors[name].detach())
            .cpu()
            .contiguous()
            for name in names
        }
        save_file(content, directory / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(names, file))
        progress(number, len(shards))
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (directory / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def stored_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, each shared tensor once, under the name that was seen first."""
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        yield name, tensor


def _plan_shards(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards


def save_rest(loaded: LoadedModel, directory: Path) -> None:
    """Configuration, generation settings and tokenizer."""
    loaded.model.config.architectures = [type(loaded.model).__name__]
    loaded.model.config.save_pretrained(directory)
    if loaded.model.can_generate():
        loaded.model.generation_config.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
