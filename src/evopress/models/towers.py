"""Where the text model of a model of several towers is, and what beside it text does not reach."""

from __future__ import annotations

from typing import Any

from torch import nn

from evopress.models.trace import Trace


def find_asleep(model: nn.Module, trace: Trace, blocks: str, head: str) -> tuple[str, ...]:
    """The outermost modules that hold parameters and of which nothing ran, blocks, head and embedding aside."""
    ran = set(trace.entered())
    awake = ran | {".".join(name.split(".")[:depth]) for name in ran for depth in range(1, name.count(".") + 1)}
    found: list[str] = []
    for name, module in model.named_modules():
        inside = name == head or f"{name}.".startswith(f"{blocks}.") or any(name.startswith(f"{o}.") for o in found)
        if name and name not in awake and not inside and next(module.parameters(), None) is not None:
            found.append(name)
    return tuple(found)


def find_tower(model: Any, blocks: str) -> str:
    """The text model inside a model of several: the module around the blocks that holds the embedding too."""
    if model.config.get_text_config() is model.config:
        return ""
    embedding = model.get_input_embeddings()
    tower = blocks.rpartition(".")[0]
    while tower and all(module is not embedding for module in model.get_submodule(tower).modules()):
        tower = tower.rpartition(".")[0]
    return tower
