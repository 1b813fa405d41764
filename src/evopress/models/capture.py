"""Hand the inputs of a block's linears to whoever accumulates Hessians, and their outputs to whoever differentiates.

One hook for each input group, not for each linear: q, k and v read one tensor, so it is seen once. Nothing is stored
here; the sink decides what to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evopress.models.describe import ModelMap

Sink = Callable[[str, Tensor], None]


class Rows:
    """A sink that keeps what it is given in one pass, all calls of a linear together; `wanted` names what it keeps.

    >>> rows = Rows(["q"])
    >>> rows("q", torch.ones(2, 3)), rows("q", torch.ones(2, 3)), rows("other", torch.ones(2, 3))
    (None, None, None)
    >>> tuple(rows.of("q").shape)
    (4, 3)
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._parts: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def __call__(self, name: str, rows: Tensor) -> None:
        """Keep `rows` (tokens, any), if they are wanted."""
        if name in self._parts:
            self._parts[name].append(rows)

    def of(self, name: str) -> Tensor:
        """The rows of all calls, in their order."""
        parts = self._parts[name]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def collect_inputs(model: nn.Module, map: ModelMap, block: int, sink: Sink) -> Iterator[None]:
    """While active, call `sink(input_group, x)` with x (tokens, in) whenever block `block` runs; hooks end with it.

    >>> from evopress.models import Runner, describe
    >>> from evopress.testing import pico_model
    >>> import torch
    >>> model = pico_model("llama")
    >>> mapped = describe(model)
    >>> runner = Runner(model, mapped)
    >>> hidden, contexts = runner.begin(torch.tensor([[5, 6, 7]]))
    >>> with collect_inputs(model, mapped, 0, lambda group, x: print(group, tuple(x.shape))):
    ...     hidden = runner.block(0, hidden, contexts)
    model.layers.0.self_attn.q_proj (3, 48)
    model.layers.0.self_attn.o_proj (3, 48)
    model.layers.0.mlp.gate_proj (3, 48)
    model.layers.0.mlp.down_proj (3, 96)
    """
    with ExitStack() as hooks:
        for group in dict.fromkeys(linear.input_group for linear in map.of_block(block)):
            linear = model.get_submodule(group)
            hooks.enter_context(linear.register_forward_pre_hook(_feed(sink, group), with_kwargs=True))
        yield


@contextmanager
def collect_outputs(model: nn.Module, map: ModelMap, block: int, sink: Sink) -> Iterator[None]:
    """While active, call `sink(linear, y)` with y as the linear returned it, its autograd graph included.

    Of a linear that returns several tensors, y is the first.
    """
    with ExitStack() as hooks:
        for linear in map.of_block(block):
            module = model.get_submodule(linear.name)
            hooks.enter_context(module.register_forward_hook(_feed_output(sink, linear.name)))
        yield


def _feed(sink: Sink, group: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor: Tensor = args[0] if args else next(iter(kwargs.values()))
        sink(group, tensor.detach().reshape(-1, tensor.shape[-1]))

    return hook


def _feed_output(sink: Sink, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        sink(name, output if isinstance(output, Tensor) else output[0])

    return hook
