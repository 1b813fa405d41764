"""The files that a model was read from: which tensors they hold, under which names, and what the model did not take.

An export carries through what evopress does not change. Tensors outside the text tower and those that the class does
not load keep their bytes and their names, and so do the files of processors and of own code. Reading names costs the
files' headers; tensors are read one by one when they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    splits tensors there is none. `experts` maps a stack of experts in the state to the names of the tensors of each
    expert, in the order in which their rows are joined. `unused` are the names in the files that the class takes
    nothing from.
    """

    directory: Path
    tensors: Mapping[str, Path]
    names: Mapping[str, str]
    unused: tuple[str, ...]
    experts: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

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
    rename, converters = _renaming(model, state)
    names: dict[str, str] = {}
    joined: dict[str, list[tuple[str, str]]] = {}
    unused = []
    for name in tensors:
        own, pattern = rename(name)
        if own not in state:
            unused.append(name)
        elif pattern is None:
            names[own] = name
        else:
            joined.setdefault(own, []).append((name, pattern))
    experts = {own: found for own, parts in joined.items() if (found := _experts(parts, converters))}
    return SourceFiles(directory, tensors, names, tuple(unused), experts)


def _experts(parts: Sequence[tuple[str, str]], converters: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Each expert's names of the (name, pattern) that a converter joins; empty where it does anything but put matrices
    of experts on a stack, those of one pattern beside those of another.
    """
    converter = next(own for own in converters if parts[0][1] in own.source_patterns)
    done = [(type(step).__name__, step.dim) for step in converter.operations if hasattr(step, "dim")]
    if len(done) != len(converter.operations) or done not in (
        [("MergeModulelist", 0)],
        [("MergeModulelist", 0), ("Concatenate", 1)],
    ):
        return ()
    found: dict[int, dict[int, str]] = {}
    for name, pattern in parts:
        before, star, behind = pattern.partition("*")
        number = re.search(rf"{re.escape(before)}(\d+){re.escape(behind)}", name) if star else None
        if number is None:
            return ()
        found.setdefault(int(number[1]), {})[converter.source_patterns.index(pattern)] = name
    return tuple(tuple(own[place] for place in sorted(own)) for _, own in sorted(found.items()))


def _renaming(model: Any, state: Mapping[str, Any]) -> tuple[Callable[[str], tuple[str, str | None]], list[Any]]:
    """What maps a name in a file to (the name in the model, the pattern of the rule that joins or splits it, if one
    does), by transformers' own rules; and these rules.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # before these rules had a place of their own
        return lambda name: (name, None), []
    rules = get_model_conversion_mapping(model) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix or None
    known = dict.fromkeys(state, True)

    def rename(name: str) -> tuple[str, str | None]:
        own, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if own not in state and name in state:
            return name, None
        return own, pattern

    return rename, converters
