"""Run a model block by block, with exactly the masks, positions and switches that its own forward pass would use.

`begin` runs the real forward pass with the blocks bypassed and writes down what each block was called with, so that
sliding windows, rotary embeddings per layer and whatever comes next are right without being known here. It costs the
embedding and the masks, no block and no head. A caller may keep hidden states and start again from any block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evopress.errors import BadWeights, UnsupportedModel
from evopress.models.describe import ModelMap
from evopress.models.probe import close, probe_ids, stock_logits

# Architectures differ in what they do to the head's output. (config attribute, what it does), applied in this order.
LOGIT_STEPS: tuple[tuple[str, Callable[[Tensor, float], Tensor]], ...] = (
    ("logits_scaling", lambda logits, value: logits.div_(value)),
    ("logit_scale", lambda logits, value: logits.mul_(value)),
    ("final_logit_softcapping", lambda logits, value: _soft_cap(logits, value)),
)


def _soft_cap(logits: Tensor, value: float) -> Tensor:
    capped = logits.div_(value).tanh_()
    return capped * value if capped.requires_grad else capped.mul_(value)  # tanh's gradient needs its result


@dataclass(frozen=True, slots=True)
class Context:
    """What one block is called with beside the hidden states: valid for every batch of the same shape."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Contexts = tuple[Context, ...]


class _LastBlockReached(Exception):
    """Ends the forward pass of `begin` before the tail and the head."""


class Runner:
    """A causal language model as a sequence of steps: `begin`, `block` 0 .. n-1, `finish`, `logits`.

    The model is used in place: weights switched between calls take effect in the next. Construction compares the steps
    with the model's own forward pass on eight tokens; UnsupportedModel if they differ, BadWeights if the model's
    answers are not finite. `block`, `finish` and `logits` record gradients exactly when the hidden state they are
    given requires grad, whatever the grad mode. `model`, `map`, `device` and the head's `vocabulary` can be read.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("gemma2")
    >>> runner = Runner(model, describe(model))
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> with torch.no_grad():
    ...     torch.equal(runner.logits(runner.head_input(ids)), model(ids).logits)
    True
    """

    def __init__(self, model: Any, map: ModelMap) -> None:
        self.model, self.map = model, map
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._blocks: list[nn.Module] = list(model.get_submodule(map.blocks))
        self._tail: list[nn.Module] = [model.get_submodule(name) for name in map.tail]
        self._head: nn.Module = model.get_submodule(map.head)
        config = model.config.get_text_config()
        steps = [(step, getattr(config, name, None)) for name, step in LOGIT_STEPS]
        self._logit_steps = [(step, float(value)) for step, value in steps if value is not None]
        self._tuple_length: int | None = None  # blocks return a bare tensor, or a tuple of this length
        self._check()

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @torch.no_grad()
    def begin(self, ids: Tensor) -> tuple[Tensor, Contexts]:
        """Token ids (batch, length) -> the first block's input (batch, length, width) and each block's context."""
        calls: list[Context] = []
        entered: list[Tensor] = []

        def record(*args: Any, **kwargs: Any) -> Any:
            hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
            entered.append(hidden)
            calls.append(Context(tuple(rest), kwargs))
            if len(calls) == len(self._blocks):
                raise _LastBlockReached
            return hidden if self._tuple_length is None else (hidden, *[None] * (self._tuple_length - 1))

        with _forward_replaced(self._blocks, record):
            try:
                self.model(input_ids=ids, use_cache=False)
            except _LastBlockReached:
                return entered[0], tuple(calls)
        raise UnsupportedModel(
            f"a forward pass called {len(calls)} of {len(self._blocks)} blocks; expected all of them"
        )

    def block(
        self, index: int, hidden: Tensor, contexts: Contexts, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Block `index` on hidden states (batch, length, width) of the shape that `contexts` were made for.

        `weights` stand in for parameters of the model, by their names; gradients are recorded for them too.
        """
        context, block, prefix = contexts[index], self._blocks[index], f"{self.map.blocks}.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in (weights or {}).items()}
        with torch.set_grad_enabled(hidden.requires_grad or any(tensor.requires_grad for tensor in own.values())):
            if own:
                output = functional_call(block, own, (hidden, *context.args), context.kwargs)
            else:
                output = block(hidden, *context.args, **context.kwargs)
        result: Tensor = output if isinstance(output, Tensor) else output[0]
        return result

    def finish(self, hidden: Tensor) -> Tensor:
        """The last block's output -> the head's input, (batch, length, width of the head)."""
        with torch.set_grad_enabled(hidden.requires_grad):
            for module in self._tail:
                hidden = module(hidden)
        return hidden

    def logits(self, head_input: Tensor) -> Tensor:
        """fp32 logits (..., vocabulary) of any (..., width) part of the head's input, scaled and soft-capped."""
        return self.scaled(self.head(head_input))

    def head(self, head_input: Tensor) -> Tensor:
        """The head's own output (..., vocabulary) in the model's dtype; `scaled` makes logits of it."""
        with torch.set_grad_enabled(head_input.requires_grad):
            output: Tensor = self._head(head_input)
        return output

    def scaled(self, output: Tensor) -> Tensor:
        """fp32 logits of any rows of the head's output, which may be overwritten."""
        with torch.set_grad_enabled(output.requires_grad):
            logits = output.float()
            for step, value in self._logit_steps:
                logits = step(logits, value)
        return logits

    def head_input(self, ids: Tensor) -> Tensor:
        """All steps before the head: token ids (batch, length) -> (batch, length, width of the head)."""
        hidden, contexts = self.begin(ids)
        for index in range(len(self._blocks)):
            hidden = self.block(index, hidden, contexts)
        return self.finish(hidden)

    def _check(self) -> None:
        """Learn from a real call what blocks return, then hold the steps against it."""

        def learn(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._tuple_length = None if isinstance(output, Tensor) else len(output)

        ids = probe_ids(self.model)
        with self._blocks[0].register_forward_hook(learn):
            stock = stock_logits(self.model, ids)
        kind = type(self.model).__name__
        if not stock.isfinite().all():
            raise BadWeights(
                f"{kind} answers {ids.shape[1]} ordinary tokens with NaN or infinity; its weights are damaged"
            )
        ours = self.logits(self.head_input(ids))
        if not close(ours, stock, self.model.dtype):
            worst = (ours - stock).abs().max().item()
            raise UnsupportedModel(
                f"{kind} run block by block differs from its own forward pass by {worst:.3g} in a logit; "
                "something between its blocks or after its head is not understood"
            )


@contextmanager
def _forward_replaced(modules: list[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let all `modules` run `forward` instead of their own, restored on any exit."""
    own = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = forward
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            del module.__dict__["forward"]
            if before is not None:
                module.forward = before
