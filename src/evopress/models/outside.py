"""What a model does outside its blocks, done by its own forward pass: the blocks are bypassed, nothing else is.

A pass can be entered anew behind any block with that block's output, and left where the next one or the head begins. So
embeddings, masks, whatever stands between two blocks, final norms, scales and soft caps need not be known here. The
cost of each entry is the embedding and the masks: no block and, unless logits are asked for, no head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evopress.errors import UnsupportedModel
from evopress.models.probe import answer


@dataclass(frozen=True, slots=True)
class Context:
    """What one block is called with beside the hidden states: valid for every batch of the same shape."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contexts:
    """Token ids (batch, length), and what each block that text runs is called with on them, by its number."""

    ids: Tensor
    blocks: Mapping[int, Context]


class _Left(Exception):
    """Ends a forward pass where no more of it is wanted."""


@dataclass(frozen=True)
class Outside:
    """The forward pass of `model` around its `blocks` and up to its `head`.

    `outputs` says what each block that runs returns: None for a bare tensor, else the length of a tuple that begins
    with it.
    """

    model: Any
    blocks: nn.ModuleList
    head: nn.Module
    outputs: Mapping[int, int | None]

    def before(self, ids: Tensor) -> tuple[Tensor, Contexts]:
        """Token ids -> the first block's input and what all are called with."""
        entered: list[Tensor] = []
        calls: dict[int, Context] = {}

        def block(index: int, hidden: Tensor, context: Context) -> Tensor:
            entered.append(hidden)
            calls[index] = context
            if len(calls) == len(self.outputs):
                raise _Left
            return hidden

        self._run(ids, block)
        if len(calls) < len(self.outputs):
            raise UnsupportedModel(
                f"a forward pass called {len(calls)} of {len(self.outputs)} blocks; expected all of them"
            )
        return entered[0], Contexts(ids, calls)

    def behind(self, index: int, output: Tensor, ids: Tensor) -> Tensor:
        """The output of block `index` on `ids` -> the next block's input, or the head's."""
        left: list[Tensor] = []

        def leave(hidden: Tensor) -> Tensor:
            left.append(hidden)
            raise _Left

        def block(at: int, hidden: Tensor, context: Context) -> Tensor:
            return leave(hidden) if at > index else output if at == index else hidden

        self._run(ids, block, leave)
        if not left:
            raise UnsupportedModel(f"a forward pass ended after block {index}; expected it to go on")
        return left[0]

    def logits(self, output: Tensor) -> Tensor:
        """The head's output (rows, vocabulary) -> the logits (rows, vocabulary) that the model makes of it."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.model.get_input_embeddings().weight.device)
        found = self._run(ids, lambda at, hidden, context: hidden, lambda hidden: output[None])
        result: Tensor = found.logits[0]
        return result

    def _run(
        self,
        ids: Tensor,
        block: Callable[[int, Tensor, Context], Tensor],
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Any:
        """One forward pass with other blocks, and another head; what it returns, None where one of them leaves."""

        def instead(at: int, *args: Any, **kwargs: Any) -> Any:
            hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
            result, length = block(at, hidden, Context(tuple(rest), kwargs)), self.outputs[at]
            return result if length is None else (result, *[None] * (length - 1))

        others = {self.blocks[at]: partial(instead, at) for at in self.outputs}
        with _forward_replaced(others | ({self.head: head} if head else {})):
            try:
                return answer(self.model, ids)
            except _Left:
                return None


@contextmanager
def _forward_replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions instead of their own `forward`, restored on any exit."""
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, before in own.items():
            del module.__dict__["forward"]
            if before is not None:
                module.forward = before
