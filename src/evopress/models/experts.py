"""What is an expert: one of several that a router chooses from. Each matrix of each expert becomes a linear of its own.

transformers holds all experts of a layer in one 3-D parameter for each of their matrices. `split_experts` puts a module
with ordinary linears in place of such a layer, whose weights are views of that parameter: no number is copied, and
whatever looks for linears (hooks, levels, gradients) finds them. Experts go one after the other, as in transformers'
own plain implementation; an expert that no token chose is called with no rows, so that all of them are seen. Layers
that are built otherwise are refused in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from evopress.models.probe import close

PROBE_TOKENS = 8  # on which a layer that was split must answer as before
DOWN = "down_proj"


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer holds its experts: the parameter `up` with the rows of a gate in it, if they are `gated`.

    Matrices are `transposed` where they are stored as (in, out). Rows come `dealt` out, as many for each expert, where
    the layer is called without their numbers.
    """

    up: str
    gated: bool
    transposed: bool
    dealt: bool


def form_of(layer: Any) -> Form | None:
    """The form of a layer of experts, None for any other module; whether it is right is seen by trying."""
    up = next((name for name in ("gate_up_proj", "up_proj") if _is_stack(layer, name)), None)
    if up is None or not _is_stack(layer, DOWN) or len(getattr(layer, up)) != len(getattr(layer, DOWN)):
        return None
    arguments = len(signature(type(layer).forward).parameters) - 1
    if arguments not in (1, 3) or not (hasattr(layer, "act_fn") or hasattr(layer, "_apply_gate")):
        return None
    transposed = getattr(layer, "is_transposed", getattr(layer, up).shape[2] != getattr(layer, DOWN).shape[1])
    return Form(up, up == "gate_up_proj", bool(transposed), arguments == 1)


def _is_stack(layer: nn.Module, name: str) -> bool:
    parameter = layer._parameters.get(name)
    return parameter is not None and parameter.ndim == 3


class Expert(nn.Module):
    """One expert of a layer of this form."""

    def __init__(self, layer: Any, form: Form, number: int) -> None:
        super().__init__()
        for name in (form.up, DOWN):
            self.add_module(name, _linear(layer, name, number, form.transposed))
        self.up, self.gated = form.up, form.gated

    def forward(self, layer: Any, rows: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, width), before the router's weights."""
        inner = self.get_submodule(self.up)(rows)
        if not self.gated:
            inner = layer.act_fn(inner)
        elif hasattr(layer, "_apply_gate"):
            inner = layer._apply_gate(inner)
        else:
            gate, other = inner.chunk(2, dim=-1)
            inner = other * layer.act_fn(gate)
        return self.get_submodule(DOWN)(inner)  # type: ignore[no-any-return]


class Experts(nn.ModuleDict):
    """The experts of a layer by their numbers, in place of `layer`, which keeps what is no matrix.

    It is called as `layer` was: hidden states (tokens, width), and for each token the numbers of its experts and their
    weights, (tokens, k) each; without these rows come dealt out. `kept` are the experts that are called, all at first;
    the router's numbers are their places in it.
    """

    choices: int
    kept: list[int]
    _watch: Callable[[Tensor, Tensor, Tensor], None] | None = None

    def __init__(self, layer: Any, form: Form) -> None:
        count = len(getattr(layer, DOWN))
        super().__init__({str(number): Expert(layer, form, number) for number in range(count)})
        self.stacks = {
            f"{own}{suffix}": f"{own}.{kind}"
            for own in (form.up, DOWN)
            for suffix, kind in (("", "weight"), ("_bias", "bias"))
            if f"{own}{suffix}" in layer._parameters
        }
        self.transposed, self.choices, self.kept = form.transposed, count, list(range(count))
        self.__dict__["layer"] = layer  # no child: its parameters are the experts'

    def take_over(self) -> None:
        """Be the only one that has the numbers: the layer loses its stacks, and what else it has is a part of this."""
        layer: Any = self.layer
        for name in self.stacks:
            del layer._parameters[name]
        for name, module in layer.named_children():
            if next(module.parameters(), None) is not None:
                self.add_module(name, module)

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor | None = None, top_k_weights: Tensor | None = None
    ) -> Tensor:
        """The weighted sum of each token's experts, (tokens, width); of rows that come dealt out, each one's answer."""
        called = [self[str(number)] for number in self.kept]
        if top_k_index is None or top_k_weights is None:
            parts = hidden_states.chunk(len(called))
            return torch.cat([expert(self.layer, part) for expert, part in zip(called, parts, strict=True)])
        self.choices = choices = top_k_index.shape[-1]
        order = top_k_index.reshape(-1).argsort(stable=True)
        sizes = top_k_index.reshape(-1).bincount(minlength=len(called)).tolist()
        parts = torch.split(hidden_states[order // choices], sizes)
        found = torch.cat([expert(self.layer, part) for expert, part in zip(called, parts, strict=True)])
        layer: Any = self.layer
        if getattr(layer, "has_post_expert_norm", False):
            found = layer.post_expert_norm(found)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        answers = found[back].view(*top_k_index.shape, -1)
        if self._watch is not None:
            self._watch(top_k_index, top_k_weights, answers)
        weighted = answers * top_k_weights[..., None]
        return weighted.sum(dim=1).to(hidden_states.dtype)

    @contextmanager
    def watched(self, watch: Callable[[Tensor, Tensor, Tensor], None]) -> Iterator[None]:
        """As long as the context lasts, `watch` sees what was chosen, (tokens, k), its weights, and the answers
        (tokens, k, width).
        """
        self.__dict__["_watch"] = watch
        try:
            yield
        finally:
            del self.__dict__["_watch"]

    @property
    def share(self) -> float:
        """The part of all tokens that an expert sees in the mean, once the layer has run."""
        return min(1.0, self.choices / len(self.numbers))

    @property
    def numbers(self) -> list[str]:
        """The experts' names, in their order."""
        return [name for name in self if name.isdecimal()]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of one expert lies in the model that was not split: part `number` of the stack `own` of its layer.

    `tail` is what the tensor's name has behind the layer's.
    """

    own: str
    number: int
    tail: str
    transposed: bool

    def stack(self, name: str) -> str:
        """The stack's name, for the tensor's `name` in whichever block."""
        return name.removesuffix(self.tail) + self.own


def places(model: nn.Module) -> dict[str, Place]:
    """Name in the state of a split model -> its place, for all tensors of experts."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, Experts):
            for own, inner in module.stacks.items():
                turned = module.transposed and inner.endswith(".weight")
                for number in module.numbers:
                    tail = f"{number}.{inner}"
                    found[f"{path}.{tail}"] = Place(own, int(number), tail, turned)
    return found


def stacked(parts: Sequence[Tensor], transposed: bool) -> Tensor:
    """The tensors of all experts as one, in the layout of the model that was not split."""
    return torch.stack([part.T if transposed else part for part in parts])


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model as its class has it: experts in stacks again, which are copies."""
    own, state, parts = places(model), model.state_dict(), dict[str, list[Tensor]]()
    for name, tensor in state.items():
        place = own.get(name)
        parts.setdefault(name if place is None else place.stack(name), []).append(tensor)
    turned = {place.stack(name): place.transposed for name, place in own.items()}
    return {name: stacked(tensors, turned[name]) if name in turned else tensors[0] for name, tensors in parts.items()}


def split_experts(model: nn.Module) -> nn.Module:
    """Put `Experts` in place of every layer of experts that answers as before with them; returns `model`.

    That is tried on random states for the first layer of each class. Layers that are built otherwise stay as they are.
    """
    found = [(name, module, form) for name, module in model.named_modules() if (form := form_of(module))]
    known: dict[type, bool] = {}
    for name, layer, form in found:
        holder, _, own = name.rpartition(".")
        experts = Experts(layer, form)
        if type(layer) not in known:
            known[type(layer)] = _same(layer, experts, form)
        if known[type(layer)]:
            experts.take_over()
            setattr(model.get_submodule(holder), own, experts)
    return model


@torch.no_grad()
def _same(layer: Any, experts: Experts, form: Form) -> bool:
    """Whether a layer of experts answers as its parts do; every expert is chosen."""
    stack = getattr(layer, form.up)
    count, width = len(stack), stack.shape[1 if form.transposed else 2]
    tokens = -(-PROBE_TOKENS // count) * count
    generator, places = torch.Generator().manual_seed(0), torch.arange(tokens)
    hidden = torch.randn(tokens, width, generator=generator).to(stack)
    chosen = torch.stack([places % count, (places + 1) % count], 1).to(stack.device)
    given = (hidden,) if form.dealt else (hidden, chosen, torch.rand(tokens, 2, generator=generator).to(stack))
    config: Any = getattr(layer, "config", None)
    way = getattr(config, "_experts_implementation", None)
    try:
        if way is not None:
            config._experts_implementation = "eager"
        return close(experts(*given), layer(*given), stack.dtype)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    finally:
        if way is not None:
            config._experts_implementation = way


def _linear(layer: Any, name: str, number: int, transposed: bool) -> nn.Linear:
    """A linear that shares one expert's part of the parameter `name`."""
    matrix = getattr(layer, name).data[number]
    bias = layer._parameters.get(f"{name}_bias")
    rows, columns = matrix.T.shape if transposed else matrix.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(matrix.T if transposed else matrix)
    if bias is not None:
        linear.bias = nn.Parameter(bias.data[number])
    return linear
