"""Reading and replacing a weight matrix by its view, without copying a number.

A switch is one pointer assignment: no allocation, and the dense tensor stays alive for whoever holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from evopress.errors import UnsupportedModel
from evopress.models.describe import WeightView


def weight(model: nn.Module, view: WeightView) -> Tensor:
    """The matrix of `view` as (out, in), detached and sharing memory with the model's parameter.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("gpt2")
    >>> view = describe(model).linears[0].view   # attn.c_attn, stored as (in, out)
    >>> tuple(model.get_parameter(view.parameter).shape), tuple(weight(model, view).shape)
    ((48, 144), (144, 48))
    """
    matrix = model.get_parameter(view.parameter).detach()
    if view.index is not None:
        matrix = matrix[view.index]
    return matrix.T if view.transposed else matrix


def set_weight(model: nn.Module, view: WeightView, tensor: Tensor) -> None:
    """Make the parameter of `view` point at `tensor`, given as (out, in) like `weight` returns it; nothing is copied.

    The caller keeps the old tensor (`weight(model, view)` before) to put it back. A transposed parameter gets
    `tensor.T`, so that `set_weight(model, view, weight(model, view))` changes nothing. UnsupportedModel for one expert
    of a 3-D parameter, which no pointer can replace. A shape other than `view.shape` is a ValueError.
    """
    if view.index is not None:
        raise UnsupportedModel(f"{view.parameter}[{view.index}] is one slice of a larger weight and cannot be replaced")
    if tuple(tensor.shape) != view.shape:
        raise ValueError(f"{view.parameter}: got a weight of shape {tuple(tensor.shape)}, expected {view.shape}")
    model.get_parameter(view.parameter).data = tensor.T if view.transposed else tensor


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[WeightView, Tensor]) -> Iterator[None]:
    """A model with other weights (out, in) under these views, as long as the context lasts; errors as `set_weight`."""
    own = {view: weight(model, view) for view in tensors}
    try:
        for view, tensor in tensors.items():
            set_weight(model, view, tensor)
        yield
    finally:
        for view, tensor in own.items():
            set_weight(model, view, tensor)
