"""What lies around a model's blocks: its head, what runs before the head, and what text does not run at all.

Found by structure, from the modules and from what one forward pass entered; a part of `describe`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from evopress.errors import UnsupportedModel
from evopress.models.trace import Trace


def find_head(model: Any) -> str:
    """Path of the language-model head; UnsupportedModel where there is none."""
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{kind} is an encoder-decoder; evopress needs a decoder-only causal language model")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if head is not None and module is head:
            return str(name)
    raise UnsupportedModel(f"no language-model head found in {kind}; load it as a causal language model")


def find_tail(trace: Trace, last_block: str, head: str) -> tuple[str, ...]:
    """Outermost modules entered between the end of the last block and the head."""
    after = trace.events[trace.events.index((last_block, False)) + 1 :]
    tail: list[str] = []
    for name, entered in after:
        if name == head:
            return tuple(tail)
        if not entered or head.startswith(f"{name}.") or any(name.startswith(f"{outer}.") for outer in tail):
            continue
        tail.append(name)
    raise UnsupportedModel(f"the head {head} is not called after the last block {last_block}")


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
