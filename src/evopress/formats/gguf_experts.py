"""Experts in a GGUF file: one stacked tensor for each of a layer's matrices, gate and up apart, all of one ggml type.

A model in memory has a matrix for each expert, with the gate's rows before those that it is multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evopress.errors import ProfileError, UnsupportedModel
from evopress.models.experts import DOWN, Place, places

JOINED = "gate_up_proj"


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one expert's parameter: `count` of them from the row `first` on."""

    parameter: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Stack:
    """A tensor of all experts of a layer by its GGUF name: the `parts` in their order, each (rows, columns)."""

    name: str
    parts: tuple[Part, ...]
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, rows, columns)."""
        return len(self.parts), self.parts[0].count, self.columns

    def type(self, types: Mapping[str, str]) -> str | None:
        """The one type of `types` (by parameter) that all parts have, None where none has any; else ProfileError."""
        found = {types.get(part.parameter) for part in self.parts}
        if len(found) > 1:
            known = ", ".join(sorted(kind or "none" for kind in found))
            raise ProfileError(f"{self.name} has one type for all its experts, not {known}; use --experts matrix")
        return found.pop()


def stacks(model: Any, parameters: Mapping[str, torch.Tensor], name: Callable[[str], str | None]) -> list[Stack]:
    """The stacked tensors of a model's experts; `name` gives a stack's name in GGUF, None where it has none.

    UnsupportedModel for experts that llama.cpp does not have: with biases, without gates.
    """
    members: dict[str, list[tuple[str, Place]]] = {}
    for parameter, place in places(model).items():
        members.setdefault(place.stack(parameter), []).append((parameter, place))
    found: list[Stack] = []
    for stack, own in members.items():
        path, _, last = stack.rpartition(".")
        down = name(f"{path}.{DOWN}")
        if last not in (JOINED, DOWN) or down is None:
            raise UnsupportedModel(f"{stack} has no place in a GGUF file; use hf")
        for what in ("ffn_gate", "ffn_up") if last == JOINED else ("ffn_down",):
            rows, columns = parameters[own[0][0]].shape
            count = rows // 2 if last == JOINED else rows
            first = count if what == "ffn_up" else 0
            parts = tuple(Part(parameter, first, count) for parameter, _ in own)
            found.append(Stack(f"{down.replace('ffn_down', what)}.weight", parts, columns))
    return found
