"""What one forward pass does: which modules run, in which order, and which linears read the same tensor.

This is how structure is found without knowing any architecture's name. The pass also shows whether the model is causal;
a second kind of pass, with a cache, shows which modules keep something of earlier tokens: keys and values, or a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.pytorch_utils import Conv1D

from evopress.errors import UnsupportedModel
from evopress.models.probe import answer, close, stock_logits


@dataclass
class Trace:
    """What one forward pass did: `events` are (module name, entered?) in order, `inputs` identify linears' inputs.

    `outputs` holds the length of the tuple that a module returned, None for a bare tensor; `cache_writes` the index of
    the cache's layer that a module itself wrote keys and values to, `state_writes` the same of states of convolutions
    and recurrences.
    """

    events: list[tuple[str, bool]] = field(default_factory=list)
    outputs: dict[str, int | None] = field(default_factory=dict)
    cache_writes: dict[str, int] = field(default_factory=dict)
    state_writes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, tuple[object, ...]] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)  # the inputs themselves, so that no address is used twice

    def entered(self) -> list[str]:
        """Names of the modules in the order in which they were called."""
        return [name for name, entered in self.events if entered]

    def innermost(self) -> str:
        """The module that runs now."""
        running: list[str] = []
        for name, entered in self.events:
            if entered:
                running.append(name)
            else:
                running.pop()
        return running[-1]


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
    """Run `ids` with the empty cache that the model makes for itself, or without one where it cannot."""
    trace = Trace()
    try:
        with _recorded(model, trace), _watched_caches(trace):
            answer(model, ids, use_cache=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        trace = Trace()
        with _recorded(model, trace):
            answer(model, ids)
    return trace


@contextmanager
def _watched_caches(trace: Trace) -> Iterator[None]:
    """While active, every cache writes down by which module it is updated."""
    places = {
        "update": (trace.cache_writes, 2),
        "update_conv_state": (trace.state_writes, 1),
        "update_recurrent_state": (trace.state_writes, 1),
    }
    own = {name: vars(Cache)[name] for name in places if name in vars(Cache)}

    def watching(method: Callable[..., Any], writes: dict[str, int], place: int) -> Callable[..., Any]:
        def update(cache: Cache, *args: Any, **kwargs: Any) -> Any:
            writes[trace.innermost()] = kwargs["layer_idx"] if "layer_idx" in kwargs else args[place]
            return method(cache, *args, **kwargs)

        return update

    try:
        for name, method in own.items():
            setattr(Cache, name, watching(method, *places[name]))
        yield
    finally:
        for name, method in own.items():
            setattr(Cache, name, method)


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
            trace.inputs[name] = _identity(tensor) if tensor.numel() else (name,)  # no rows have no address

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
