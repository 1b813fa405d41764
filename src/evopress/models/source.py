"""The files that a model was read from: which tensors they hold, under which names, and what the model did not take.

An export carries through what evopress does not change. Tensors outside the text tower and those that the class does
not load keep their bytes and their names, and so do the files of processors and of own code. Reading names costs the
files' headers; tensors are read one by one when they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

COMPANIONS = ("*processor*.json", "chat_template*", "additional_chat_templates/*")
"""Files beside configuration, weights and tokenizer that an export needs as they are."""

CODE = "*.py"
"""Own code of a checkpoint, which an export needs where its configuration names it."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """A directory with safetensors files. `tensors` says in which file each name is.

    `names` maps a name in the model's state to that of the very same tensor in the files; where the class joins or
    splits tensors there is none. `unused` are the names in the files that the class takes nothing from.
    """

    directory: Path
    tensors: Mapping[str, Path]
    names: Mapping[str, str]
    unused: tuple[str, ...]

    def read(self, name: str) -> Tensor:
        """The tensor of that name in the files, in its own dtype."""
        with safe_open(self.tensors[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    def about(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Its dtype and shape, from the file's header."""
        with safe_open(self.tensors[name], framework="pt") as file:
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            return (part[tuple(slice(0) for _ in shape)] if shape else file.get_tensor(name)).dtype, shape

    def companions(self, code: bool) -> list[Path]:
        """Processors' files and chat templates, and with `code` the checkpoint's own modules."""
        patterns = (*COMPANIONS, CODE) if code else COMPANIONS
        return sorted({file for pattern in patterns for file in self.directory.glob(pattern) if file.is_file()})


def read_source(model: Any, directory: Path) -> SourceFiles | None:
    """What the files in `directory` hold of `model`, which was read from them; None without safetensors files."""
    tensors: dict[str, Path] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= dict.fromkeys(opened.keys(), file)
    if not tensors:
        return None
    state = {name: tensor.shape for name, tensor in model.state_dict().items()}
    rename = _renaming(model, state)
    names: dict[str, str] = {}
    unused = []
    for name in tensors:
        own, whole = rename(name)
        if own not in state:
            unused.append(name)
        elif whole:
            names[own] = name
    return SourceFiles(directory, tensors, names, tuple(unused))


def _renaming(model: Any, state: Mapping[str, Any]) -> Any:
    """name in a file -> (name in the model, whether it is the whole tensor), by transformers' own rules."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # before these rules had a place of their own
        return lambda name: (name, True)
    rules = get_model_conversion_mapping(model) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix or None
    known = dict.fromkeys(state, True)

    def rename(name: str) -> tuple[str, bool]:
        own, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if own not in state and name in state:
            return name, True
        return own, pattern is None

    return rename
