"""Run a model block by block, with exactly the masks, positions and switches that its own forward pass would use.

`begin` runs the real forward pass with the blocks bypassed and writes down what each block was called with, so that
sliding windows, rotary embeddings per layer and whatever comes next are right without being known here. It costs the
embedding and the masks, no block and no head. A caller may keep hidden states and start again from any block.

What comes between and behind the blocks is nothing and a few modules in most models, and then only those run. Where
that is not what the model itself answers, its own forward pass is entered anew there (`evopress.models.outside`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evopress.errors import BadWeights, UnsupportedModel, first_line
from evopress.models.blocks import Blocks, Resident, asked_for, modules_of
from evopress.models.describe import Linear, ModelMap
from evopress.models.outside import Context, Contexts, Outside
from evopress.models.probe import close, probe_ids, stock_logits
from evopress.models.weights import weight

__all__ = ["Context", "Contexts", "Runner"]

_WRONG = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)  # what a wrong guess may cause

# What most architectures do to the head's output, if anything: (config attribute, what it does), in this order.
LOGIT_STEPS: tuple[tuple[str, Callable[[Tensor, float], Tensor]], ...] = (
    ("logits_scaling", lambda logits, value: logits.div_(value)),
    ("logit_scale", lambda logits, value: logits.mul_(value)),
    ("final_logit_softcapping", lambda logits, value: _soft_cap(logits, value)),
)


def _soft_cap(logits: Tensor, value: float) -> Tensor:
    capped = logits.div_(value).tanh_()
    return capped * value if capped.requires_grad else capped.mul_(value)  # tanh's gradient needs its result


class Runner:
    """A causal language model as a sequence of steps: `begin`, `block` 0 .. n-1, `finish`, `logits`.

    The model is used in place: weights switched between calls take effect in the next. Construction compares the steps
    with the model's own forward pass on eight tokens; UnsupportedModel if they differ, BadWeights if the model's
    answers are not finite. `block`, `finish` and `logits` record gradients exactly when the hidden state they are
    given requires grad, whatever the grad mode. `model`, `map`, `device` and the head's `vocabulary` can be read.
    `blocks` are asked for each block before it is run; by default they are the model's own, all in memory.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("gemma2")
    >>> runner = Runner(model, describe(model))
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> with torch.no_grad():
    ...     torch.equal(runner.logits(runner.head_input(ids)), model(ids).logits)
    True
    """

    def __init__(self, model: Any, map: ModelMap, blocks: Blocks | None = None) -> None:
        self.model, self.map = model, map
        self.blocks: Blocks = Resident(model, map) if blocks is None else blocks
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._tail: list[nn.Module] = [model.get_submodule(name) for name in map.tail]
        self._head: nn.Module = model.get_submodule(map.head)
        config = model.config.get_text_config()
        steps = [(step, getattr(config, name, None)) for name, step in LOGIT_STEPS]
        self._logit_steps = [(step, float(value)) for step, value in steps if value is not None]
        self._reenter: set[int] = set()  # the blocks behind which the model's own forward pass is entered anew
        self._own_scale = False  # whether the model's own forward pass makes logits of the head's output
        self._check()

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def begin(self, ids: Tensor, *, gradients: bool = False) -> tuple[Tensor, Contexts]:
        """Token ids (batch, length) -> the first block's input (batch, length, width) and each block's context.

        With `gradients` they are recorded for an embedding that requires grad.
        """
        with torch.set_grad_enabled(gradients):
            return self._outside.before(ids)

    def block(
        self, index: int, hidden: Tensor, contexts: Contexts, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Block `index` on hidden states (batch, length, width) of the shape that `contexts` were made for.

        A block that text does not run hands them on.
        `weights` stand in for parameters of the model, by their names; gradients are recorded for them too.
        """
        if index not in contexts.blocks:
            return hidden
        context, block, prefix = contexts.blocks[index], self.blocks[index], f"{self.map.blocks}.{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in (weights or {}).items()}
        with torch.set_grad_enabled(hidden.requires_grad or any(tensor.requires_grad for tensor in own.values())):
            if own:
                output = functional_call(block, own, (hidden, *context.args), context.kwargs)
            else:
                output = block(hidden, *context.args, **context.kwargs)
            result: Tensor = output if isinstance(output, Tensor) else output[0]
            if index in self._reenter and index < self._last:
                result = self._outside.behind(index, result, contexts.ids)
        return result

    def weight(self, linear: Linear) -> Tensor:
        """The matrix (out, in) of a linear, with its block asked for; detached, and the model's own memory."""
        if 0 <= linear.block < len(self.blocks):
            _ = self.blocks[linear.block]
        return weight(self.model, linear.view)

    def finish(self, hidden: Tensor, contexts: Contexts) -> Tensor:
        """The last block's output on `contexts.ids` -> the head's input, (batch, length, width of the head)."""
        with torch.set_grad_enabled(hidden.requires_grad):
            if self._last in self._reenter:
                return self._outside.behind(self._last, hidden, contexts.ids)
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
            if self._own_scale:
                return self._outside.logits(output).float()
            logits = output.float()
            for step, value in self._logit_steps:
                logits = step(logits, value)
        return logits

    def head_input(self, ids: Tensor) -> Tensor:
        """All steps before the head: token ids (batch, length) -> (batch, length, width of the head)."""
        hidden, contexts = self.begin(ids)
        for index in range(len(self.blocks)):
            hidden = self.block(index, hidden, contexts)
        return self.finish(hidden, contexts)

    def _check(self) -> None:
        """Learn from a real call what blocks and head return, then hold the steps against it."""
        ids = probe_ids(self.model)
        stock, outputs, raw = self._observe(ids)
        kind = type(self.model).__name__
        if not stock.isfinite().all():
            raise BadWeights(
                f"{kind} answers {ids.shape[1]} ordinary tokens with NaN or infinity; its weights are damaged"
            )
        self._outside = Outside(self.model, modules_of(self.model, self.map), self._head, outputs)
        self._last = max(outputs)
        self._own_scale = not close(self.scaled(raw.clone()), stock, self.model.dtype)
        if self._misses(ids, stock) is None:
            return
        try:
            self._reenter = self._learn_reentries(ids)
        except _WRONG as error:
            raise UnsupportedModel(
                f"{kind} cannot be run block by block, something that its blocks hand to each other is missing: "
                f"{first_line(error)}"
            ) from error
        if (worst := self._misses(ids, stock)) is not None:
            raise UnsupportedModel(
                f"{kind} run block by block differs from its own forward pass by {worst:.3g} in a logit; "
                "something between its blocks or after its head is not understood"
            )

    def _observe(self, ids: Tensor) -> tuple[Tensor, dict[int, int | None], Tensor]:
        """The model's own logits, what each block that runs returns, and the head's output."""
        outputs: dict[int, int | None] = {}
        raw: list[Tensor] = []

        def learn(index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            outputs[index] = None if isinstance(output, Tensor) else len(output)

        modules = modules_of(self.model, self.map)
        hooks = [block.register_forward_hook(partial(learn, index)) for index, block in enumerate(modules)]
        hooks.append(self._head.register_forward_hook(lambda module, args, output: raw.append(output.clone())))
        try:
            with asked_for(modules, self.blocks):
                return stock_logits(self.model, ids), outputs, raw[-1]
        finally:
            for hook in hooks:
                hook.remove()

    def _misses(self, ids: Tensor, stock: Tensor) -> float | None:
        """By how much the steps miss the model's own logits; None when they do not."""
        try:
            ours = self.logits(self.head_input(ids))
        except _WRONG:
            return float("nan")
        if ours.shape == stock.shape and close(ours, stock, self.model.dtype):
            return None
        return (ours - stock).abs().max().item() if ours.shape == stock.shape else float("nan")

    def _learn_reentries(self, ids: Tensor) -> set[int]:
        """The blocks whose output is not what the next one is given, and the last one."""
        found = set()
        hidden, contexts = self.begin(ids)
        for index in list(contexts.blocks)[:-1]:
            output = self.block(index, hidden, contexts)
            with torch.no_grad():
                hidden = self._outside.behind(index, output, ids)
            if hidden.shape != output.shape or not torch.equal(hidden, output):
                found.add(index)
        return found | {self._last}
