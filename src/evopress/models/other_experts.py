"""Experts that are not built as `evopress.models.experts` knows them: found by structure, and refused in one line.

They lie in a stack, a 3-D parameter of a module that counts as many of them as the parameter is long, or in a list of
modules of one class of which a pass calls some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from evopress.errors import UnsupportedModel


def stacks(module: nn.Module) -> Iterator[tuple[str, int]]:
    """(parameter's own name, experts) of the module's own parameters that hold a matrix for each of several experts."""
    counts = {value for key, value in vars(module).items() if "expert" in key and type(value) is int}
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 3 and parameter.shape[0] > 1 and parameter.shape[0] in counts:
            yield name, parameter.shape[0]


def refuse_stacks(block: nn.Module, path: str) -> None:
    """UnsupportedModel for a block with a stack of experts."""
    for name, module in block.named_modules():
        for own, count in stacks(module):
            raise _refused(".".join(part for part in (path, name, own) if part), count)


def refuse_chosen(model: nn.Module, parameters: Iterable[str], entered: Iterable[str]) -> None:
    """UnsupportedModel where one of these parameters, which a pass did not use, is an expert that no token chose."""
    ran = set(entered)
    for name in parameters:
        for path, others in _elements(model, name):
            if path not in ran and any(other in ran for other in others):
                raise _refused(path.rpartition(".")[0], len(others) + 1)


def _elements(model: nn.Module, name: str) -> Iterator[tuple[str, list[str]]]:
    """For each list of modules that `name` lies in: the element that holds it, and the others of the same class."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        path = ".".join(parts[:depth])
        module = model.get_submodule(path)
        if isinstance(module, nn.ModuleList):
            own = module.get_submodule(parts[depth])
            others = (f"{path}.{at}" for at, other in module.named_children() if other is not own)
            yield f"{path}.{parts[depth]}", [o for o in others if type(model.get_submodule(o)) is type(own)]


def _refused(where: str, count: int) -> UnsupportedModel:
    return UnsupportedModel(f"{where} holds {count} experts; experts that are built so are not supported yet")
