"""Model -> map: find the blocks, their linears, which of them share an input, and what follows the last block.

Everything is found by structure. The modules say what exists; hooks during one forward pass of 2 x 8 tokens say what is
called, in which order, and which linears read the same tensor. Nothing compares model names. Cost: that one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evopress.errors import UnsupportedModel
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


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a block. `role` is its place inside the block, equal in all blocks (`self_attn.q_proj`).

    `input_group` is the name of the group's first linear: two linears with equal `input_group` read the same tensor
    and so share one Hessian. Groups never reach over blocks.
    """

    name: str
    block: int
    role: str
    view: WeightView
    input_group: str


@dataclass(frozen=True, slots=True)
class ModelMap:
    """The parts of a decoder: `blocks` is the path of the list of blocks, `tail` the modules between it and `head`.

    `tail` is in call order: usually the final norm, for some models also a projection.
    """

    blocks: str
    n_blocks: int
    linears: tuple[Linear, ...]
    tail: tuple[str, ...]
    head: str

    def of_block(self, block: int) -> tuple[Linear, ...]:
        """The linears of one block, in the order of the block's own modules."""
        return tuple(linear for linear in self.linears if linear.block == block)


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
    head = _find_head(model)
    trace = trace_forward(model, probe_ids(model) if probe is None else probe)
    blocks = _find_blocks(model, trace)
    modules = list(model.get_submodule(blocks))
    linears: list[Linear] = []
    for index, block in enumerate(modules):
        linears.extend(_find_linears(block, index, f"{blocks}.{index}", trace))
    _require_own_weights(model, linears)
    last = f"{blocks}.{len(modules) - 1}"
    return ModelMap(blocks, len(modules), tuple(linears), _find_tail(trace, last, head), head)


def _find_head(model: Any) -> str:
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{kind} is an encoder-decoder; evopress needs a decoder-only causal language model")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if head is not None and module is head:
            return str(name)
    raise UnsupportedModel(f"no language-model head found in {kind}; load it as a causal language model")


def _find_blocks(model: Any, trace: Trace) -> str:
    """Path of the longest list of equal modules that were called once each, in order; outer lists before inner ones."""
    entered = trace.entered()
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{outer}.") for outer in found):
            continue
        names = [f"{path}.{index}" for index in range(len(module))]
        wanted = set(names)
        called = [name for name in entered if name in wanted]
        if names and called == names and len({type(block) for block in module}) == 1:
            found[path] = len(names)
    if not found:
        raise UnsupportedModel(
            f"no list of blocks found in {type(model).__name__}: expected a torch.nn.ModuleList of modules of one "
            "class that a forward pass calls once each, in order"
        )
    return max(found, key=lambda path: found[path])


def _weight_layers(block: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """(role, module, transposed) of the modules of a block that hold a weight matrix and a matrix product."""
    for role, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield role, module, isinstance(module, Conv1D)


def _find_linears(block: nn.Module, index: int, path: str, trace: Trace) -> Iterator[Linear]:
    for name, parameter in block.named_parameters():
        if parameter.ndim == 3:
            shape = tuple(parameter.shape)
            raise UnsupportedModel(f"{path}.{name} is a 3-D weight {shape}; fused experts are not supported yet")
    first_reader: dict[tuple[object, ...], str] = {}
    roles = 0
    for role, module, transposed in _weight_layers(block):
        roles += 1
        name = f"{path}.{role}"
        if name not in trace.inputs:
            raise UnsupportedModel(
                f"{name} is not called in a forward pass; layers used for some tokens only are not supported"
            )
        matrix: Tensor = module.weight  # type: ignore[assignment]
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise UnsupportedModel(
                f"{name}.weight is {matrix.dtype} {tuple(matrix.shape)}; expected a 2-D float matrix"
            )
        rows, columns = matrix.T.shape if transposed else matrix.shape
        group = first_reader.setdefault(trace.inputs[name], name)
        yield Linear(name, index, role, WeightView(f"{name}.weight", None, transposed, (rows, columns)), group)
    if not roles:
        raise UnsupportedModel(f"no linear layer found in {path}; expected torch.nn.Linear or transformers' Conv1D")


def _require_own_weights(model: Any, linears: list[Linear]) -> None:
    owner: dict[int, str] = {}
    for linear in linears:
        parameter = linear.view.parameter
        first = owner.setdefault(id(model.get_parameter(parameter)), parameter)
        if first != parameter:
            raise UnsupportedModel(
                f"{first} and {parameter} are one weight; blocks that share weights are not supported"
            )


def _find_tail(trace: Trace, last_block: str, head: str) -> tuple[str, ...]:
    """Outermost modules entered between the end of the last block and the head."""
    after = trace.events[trace.events.index((last_block, False)) + 1 :]
    tail: list[str] = []
    for name, entered in after:
        if not entered or any(name.startswith(f"{outer}.") for outer in tail):
            continue
        if name == head:
            return tuple(tail)
        tail.append(name)
    raise UnsupportedModel(f"the head {head} is not called after the last block {last_block}")
