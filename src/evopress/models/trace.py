"""What one forward pass does: which modules run, in which order, and which linears read the same tensor.

This is how structure is found without knowing any architecture's name. The pass also shows whether the model is causal;
a second kind of pass, with a key-value cache, shows which modules keep keys and values: the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from evopress.errors import UnsupportedModel
from evopress.models.probe import close, stock_logits


@dataclass
class Trace:
    """What one forward pass did: `events` are (module name, entered?) in order, `inputs` identify linears' inputs.

    `outputs` holds the length of the tuple that a module returned, None for a bare tensor; `cache_writes` the index of
    the cache's layer that a module itself wrote keys and values to.
    """

    events: list[tuple[str, bool]] = field(default_factory=list)
    outputs: dict[str, int | None] = field(default_factory=dict)
    cache_writes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, tuple[object, ...]] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)  # the inputs themselves, so that no address is used twice

    def entered(self) -> list[str]:
        """Names of the modules in the order in which they were called."""
        return [name for name, entered in self.events if entered]


def trace_forward(model: Any, ids: Tensor) -> Trace:
    """Run `ids` and a copy with another last token; earlier answers must not depend on it, else it is no decoder."""
    other = ids[:1].clone()
    other[:, -1] = (other[:, -1] + 1) % model.get_input_embeddings().weight.shape[0]
    trace = Trace()
    with _recorded(model, trace):
        logits = stock_logits(model, torch.cat([ids[:1], other]))
    if not close(logits[1, :-1], logits[0, :-1], model.dtype):
        raise UnsupportedModel(f"{type(model).__name__} is not causal: a later token changes the answers before it")
    return trace


@torch.no_grad()
def trace_cached(model: Any, ids: Tensor) -> Trace:
    """Run `ids` with an empty key-value cache."""
    trace = Trace()
    with _recorded(model, trace):
        model(input_ids=ids, past_key_values=_WatchedCache(model.config, trace), use_cache=True)
    return trace


class _WatchedCache(DynamicCache):
    """A cache that writes down by which module it is updated."""

    def __init__(self, config: Any, trace: Trace) -> None:
        super().__init__(config=config)
        self._trace = trace

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        open_modules: list[str] = []
        for name, entered in self._trace.events:
            if entered:
                open_modules.append(name)
            else:
                open_modules.pop()
        self._trace.cache_writes[open_modules[-1]] = layer_idx
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@contextmanager
def _recorded(model: nn.Module, trace: Trace) -> Iterator[None]:
    """While active, every module call is written into `trace`."""
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(_on_enter(trace, name), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(_on_exit(trace, name)))
        yield


def _on_enter(trace: Trace, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.events.append((name, True))
        if isinstance(module, nn.Linear | Conv1D):
            tensor = args[0] if args else next(iter(kwargs.values()))
            trace.alive.append(tensor)
            trace.inputs[name] = _identity(tensor)

    return hook


def _on_exit(trace: Trace, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        trace.events.append((name, False))
        trace.outputs[name] = len(output) if isinstance(output, tuple) else None

    return hook


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same rows in memory, whether seen as (batch, length, in) or (tokens, in).

    The version counts in-place changes: the same memory with other numbers is another input.
    """
    version = 0 if tensor.is_inference() else tensor._version
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape[-1], tensor.numel(), tensor.stride()[-2:], version
