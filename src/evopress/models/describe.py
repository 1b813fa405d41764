"""Model -> map: find the blocks, their linears, which of them share an input, and what follows the last block.

Everything is found by structure. The modules say what exists; hooks during one forward pass of 2 x 8 tokens say what is
called, in which order, and which linears read the same tensor. Nothing compares model names. Cost: that one pass.

What is no linear that the pass calls (convolutions, vectors for each head, layers that text does not reach) is left
dense, and the map says so. Stacks of experts are refused: most of a model would be left dense in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evopress.errors import UnsupportedModel
from evopress.models.around import find_asleep, find_head, find_tail, find_tower
from evopress.models.experts import Experts
from evopress.models.other_experts import refuse_chosen, refuse_stacks
from evopress.models.probe import probe_ids
from evopress.models.trace import Trace, trace_forward


@dataclass(frozen=True, slots=True)
class WeightView:
    """One weight matrix inside a parameter, always spoken of as (out, in).

    `parameter` is the parameter's full name, `index` selects one expert of a 3-D parameter (None: the parameter is the
    matrix), `transposed` says that the parameter is stored as (in, out), as GPT-2's Conv1D does.
    """

    parameter: str
    index: int | None
    transposed: bool
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a block. `role` is its place inside the block, equal in all blocks (`self_attn.q_proj`).

    `input_group` is the name of the group's first linear: two linears with equal `input_group` read the same tensor
    and so share one Hessian. Groups never reach over blocks. `experts` is the path of the layer of experts that it lies
    in, of whose tokens it sees those that a router sends to it; empty elsewhere.
    """

    name: str
    block: int
    role: str
    view: WeightView
    input_group: str
    experts: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """A parameter of a block, of `size` numbers in two or more dimensions, that is no unit, and why."""

    parameter: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class ModelMap:
    """The parts of a decoder: `blocks` is the path of the list of blocks, `tail` the modules between it and `head`.

    `tail` is in call order: usually the final norm, for some models also a projection. `again` are linears that
    multiply with the weight of one of `linears` in another block or another module; their view names that weight.
    `left` are the blocks' other parameters of two and more dimensions, `asleep` the modules beside the blocks that text
    does not run, `tower` the module that holds all of the text model but its head, empty where that is the whole model.
    `idle` are the numbers of blocks that text does not run (cross-attention to an image): they hand on what they get.
    """

    blocks: str
    n_blocks: int
    linears: tuple[Linear, ...]
    tail: tuple[str, ...]
    head: str
    again: tuple[Linear, ...] = ()
    left: tuple[Left, ...] = ()
    asleep: tuple[str, ...] = ()
    tower: str = ""
    idle: tuple[int, ...] = ()

    def untouched_by_text(self, name: str) -> bool:
        """Whether a parameter or buffer is none of the text model's: it lies in another tower."""
        if any(name.startswith(f"{module}.") for module in self.asleep):
            return True
        return bool(self.tower) and not name.startswith((f"{self.tower}.", f"{self.head}."))

    def of_block(self, block: int) -> tuple[Linear, ...]:
        """The linears of one block, in the order of the block's own modules."""
        return tuple(linear for linear in self.linears if linear.block == block)

    def called_in(self, block: int) -> tuple[Linear, ...]:
        """The linears that one block calls, those too whose weight is another one's."""
        return self.of_block(block) + tuple(linear for linear in self.again if linear.block == block)

    @property
    def experts(self) -> bool:
        """Whether some of the linears are matrices of experts."""
        return any(linear.experts for linear in self.linears)

    @property
    def share(self) -> float:
        """The part of the blocks' weights (parameters of two and more dimensions) that are units."""
        inside = (linear for linear in self.linears if 0 <= linear.block < self.n_blocks)
        units = sum(linear.view.size for linear in inside)
        return units / ((units + sum(left.size for left in self.left)) or 1)

    def without(self, names: Collection[str], why: str) -> ModelMap:
        """The map with these linears left dense."""
        gone = [linear for linear in self.linears if linear.name in names]
        weights = {linear.view.parameter for linear in gone}
        left = (Left(one.view.parameter, one.view.size, why) for one in gone)
        return replace(
            self,
            linears=tuple(linear for linear in self.linears if linear.name not in names),
            again=tuple(linear for linear in self.again if linear.view.parameter not in weights),
            left=(*self.left, *left),
        )


def describe(model: Any, probe: Tensor | None = None) -> ModelMap:
    """Map a causal language model.

    `probe` are token ids (batch, length >= 2) for the forward pass that looks at the structure; by default eight ids
    from the middle of the vocabulary. UnsupportedModel names what was not found: a language-model head, causal
    attention, a list of equal blocks called in order, or 2-D floating-point weights that the pass uses.

    >>> from evopress.testing import pico_model
    >>> mapped = describe(pico_model("llama", blocks=2))
    >>> mapped.blocks, mapped.n_blocks, mapped.tail, mapped.head
    ('model.layers', 2, ('model.norm',), 'lm_head')
    >>> [linear.role for linear in mapped.linears if linear.input_group == "model.layers.1.mlp.gate_proj"]
    ['mlp.gate_proj', 'mlp.up_proj']
    """
    head = find_head(model)
    trace = trace_forward(model, probe_ids(model) if probe is None else probe)
    blocks = _find_blocks(model, trace)
    modules = list(model.get_submodule(blocks))
    found = _Linears(model, trace)
    for index, block in enumerate(modules):
        found.add(block, index, f"{blocks}.{index}")
    if not found.linears:
        raise UnsupportedModel(f"no linear layer found in {blocks}; expected torch.nn.Linear or transformers' Conv1D")
    entered = set(trace.entered())
    idle = tuple(index for index in range(len(modules)) if f"{blocks}.{index}" not in entered)
    last = f"{blocks}.{max(set(range(len(modules))) - set(idle))}"
    tail = find_tail(trace, last, head)
    return ModelMap(
        blocks,
        len(modules),
        tuple(found.linears),
        tail,
        head,
        tuple(found.again),
        found.left(),
        find_asleep(model, trace, blocks, head),
        find_tower(model, blocks),
        idle,
    )


def _find_blocks(model: Any, trace: Trace) -> str:
    """Path of the list of modules, called once each and in order, with most weights; outer lists before inner ones.

    A list of which some are not called holds blocks only where there is no other.
    """
    entered = trace.entered()
    whole: dict[str, int] = {}
    partly: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in whole):
            continue
        names = [f"{path}.{index}" for index in range(len(module))]
        called = [name for name in entered if name in set(names)]
        if called and called == [name for name in names if name in set(called)]:
            found = whole if called == names else partly
            found[path] = sum(parameter.numel() for parameter in module.parameters())
    if not whole and not partly:
        raise UnsupportedModel(
            f"no list of blocks found in {type(model).__name__}: expected a torch.nn.ModuleList of modules that a "
            "forward pass calls once each, in order"
        )
    found = whole or partly
    return max(found, key=lambda path: found[path])


def _weight_layers(block: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """(role, module, transposed) of the modules of a block that hold a weight matrix and a matrix product."""
    for role, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield role, module, isinstance(module, Conv1D)


@dataclass
class _Linears:
    """What is found in the blocks: `linears` are units, `again` other uses of their weights."""

    model: Any
    trace: Trace
    linears: list[Linear] = field(default_factory=list)
    again: list[Linear] = field(default_factory=list)
    units: dict[int, Linear] = field(default_factory=dict)
    others: dict[int, Left] = field(default_factory=dict)

    def add(self, block: nn.Module, index: int, path: str) -> None:
        """Take in a block: its linears that are called, and what else it has."""
        first_reader: dict[tuple[object, ...], str] = {}
        layers = {role: module for role, module in block.named_modules() if isinstance(module, Experts)}
        for role, module, transposed in _weight_layers(block):
            name = f"{path}.{role}"
            matrix: Tensor = module.weight  # type: ignore[assignment]
            if matrix.ndim != 2 or not matrix.is_floating_point():
                raise UnsupportedModel(
                    f"{name}.weight is {matrix.dtype} {tuple(matrix.shape)}; expected a 2-D float matrix"
                )
            if name not in self.trace.inputs:
                self.others.setdefault(id(matrix), Left(f"{name}.weight", matrix.numel(), NOT_CALLED))
                continue
            rows, columns = matrix.T.shape if transposed else matrix.shape
            if _routes(role, rows, layers):
                self.others.setdefault(id(matrix), Left(f"{name}.weight", matrix.numel(), ROUTER))
                continue
            group = first_reader.setdefault(self.trace.inputs[name], name)
            view = WeightView(f"{name}.weight", None, transposed, (rows, columns))
            if id(matrix) in self.units:
                self.again.append(Linear(name, index, role, self.units[id(matrix)].view, group))
                continue
            inside = next((f"{path}.{layer}" for layer in layers if role.startswith(f"{layer}.")), "")
            self.linears.append(Linear(name, index, role, view, group, inside))
            self.units[id(matrix)] = self.linears[-1]
        for name, parameter in block.named_parameters():
            if parameter.ndim > 1:
                self.others.setdefault(id(parameter), Left(f"{path}.{name}", parameter.numel(), NO_LINEAR))
        refuse_stacks(block, path)

    def left(self) -> tuple[Left, ...]:
        """The parameters that are no units; UnsupportedModel where some are experts that no token chose."""
        left = tuple(left for key, left in self.others.items() if key not in self.units)
        refuse_chosen(self.model, [one.parameter for one in left if one.why == NOT_CALLED], self.trace.entered())
        return left


def _routes(role: str, rows: int, layers: Mapping[str, Experts]) -> bool:
    """Whether a linear beside a layer of experts chooses between these, or weighs what is shared with one number."""
    for layer, experts in layers.items():
        beside = layer.rpartition(".")[0]
        inside = role.startswith(f"{layer}.") or not role.startswith(f"{beside}." if beside else "")
        if not inside and rows in (1, len(experts.numbers)):
            return True
    return False


NOT_CALLED, NO_LINEAR, ROUTER = "not called on text", "no linear layer", "chooses experts"
"""Why a parameter is no unit."""
