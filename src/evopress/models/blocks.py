"""A model's blocks as those who run them see them: asked for one at a time, by number, and brought when asked for.

So a pass over a model does not know where its weights lie. Whoever runs a block, or reads a weight of it, has asked
`Runner.blocks` for it before and is done with it when it asks for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import nn

from evopress.models.describe import ModelMap


class Blocks(Protocol):
    """The blocks of a model, in order."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> nn.Module:
        """The block that now stands at `index`, its weights where it runs; those of others may be gone."""


class Resident:
    """The blocks of a model that is in memory as a whole: nothing has to be brought.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama")
    >>> blocks = Resident(model, describe(model))
    >>> len(blocks), blocks[1] is model.model.layers[1]
    (3, True)
    """

    def __init__(self, model: Any, map: ModelMap) -> None:
        self._modules = modules_of(model, map)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int, /) -> nn.Module:
        return self._modules[index]  # looked up at each call: blocks are swapped


def modules_of(model: Any, map: ModelMap) -> nn.ModuleList:
    """The list of the blocks' modules in the model, whether or not their weights are there."""
    modules: nn.ModuleList = model.get_submodule(map.blocks)
    return modules


@contextmanager
def asked_for(modules: nn.ModuleList, blocks: Blocks) -> Iterator[None]:
    """While active, the model's own forward pass asks for each block before it runs it."""

    def ask(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            _ = blocks[index]

        return hook

    with ExitStack() as hooks:
        for index, module in enumerate(modules):
            hooks.enter_context(module.register_forward_pre_hook(ask(index)))
        yield
