"""A stock Hugging Face checkpoint: dequantized weights in the model's dtype, configuration and tokenizer included.

Plain `AutoModelForCausalLM.from_pretrained` loads it; it has the size of the dense model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evopress.errors import ConfigError
from evopress.export.format import FileCosts
from evopress.export.shards import Entry, Progress, kept, predicted_bytes, write_shards
from evopress.export.staging import hidden
from evopress.export.verification import Verification, verify_checkpoint
from evopress.models import LoadedModel
from evopress.profile import Profile
from evopress.search.presets import ApplicationName

if TYPE_CHECKING:
    from evopress.workspace import Workspace


class HuggingFace:
    """Implements `Format`: holds every application, always in the bytes of the dense model."""

    name = "hf"
    applications: tuple[ApplicationName, ...] = ("bits", "sparsity", "depth")

    def predicted_bytes(self, workspace: Workspace, profile: Profile) -> int:
        """Those of the dense model's tensors."""
        return predicted_bytes(self._entries(workspace, profile))

    def costs(self, workspace: Workspace) -> FileCosts:
        """ConfigError: nothing that is searched changes them."""
        raise ConfigError("a size needs a format that stores levels packed; choose one with --target")

    def write(self, workspace: Workspace, profile: Profile, out: Path, progress: Progress) -> None:
        """Write tensors, configuration and tokenizer."""
        export_checkpoint(out, workspace.loaded, self._entries(workspace, profile), progress=progress)

    def verify(self, workspace: Workspace, profile: Profile, out: Path) -> Verification:
        """Load it with transformers."""
        return verify_checkpoint(workspace, profile, out)

    def _entries(self, workspace: Workspace, profile: Profile) -> list[Entry]:
        return dense_entries(workspace.loaded.model, workspace.application.tensors(profile))


def dense_entries(model: Any, compressed: Mapping[str, Callable[[torch.dtype], torch.Tensor]]) -> list[Entry]:
    """Each stored tensor of a model; `compressed` maps the names of those that differ to what makes them."""
    return [
        Entry(name, tensor.dtype, tuple(tensor.shape), partial(compressed[name], tensor.dtype))
        if name in compressed
        else kept(name, tensor)
        for name, tensor in stored_tensors(model)
    ]


def export_checkpoint(
    directory: Path,
    loaded: LoadedModel,
    entries: list[Entry],
    *,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write `entries`, configuration and tokenizer to `directory`."""
    save_rest(loaded, directory)
    write_shards(directory, entries, progress)


def stored_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, each shared tensor once, under the name that was seen first."""
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        yield name, tensor


def save_rest(loaded: LoadedModel, directory: Path) -> None:
    """Configuration, hidden until the export is whole, generation settings and tokenizer. Call it before weights."""
    loaded.model.config.architectures = [type(loaded.model).__name__]
    loaded.model.config.save_pretrained(directory)
    os.replace(directory / "config.json", hidden(directory / "config.json"))
    if loaded.model.can_generate():
        loaded.model.generation_config.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
