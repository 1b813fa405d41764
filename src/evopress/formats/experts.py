"""Matrices of experts as a checkpoint has them: as its source's files do, else in the stacks of its class.

A model in memory has a tensor for each matrix of each expert (`evopress.models.experts`). Files of most checkpoints
have two for what is one here, the gate's rows and those that it is multiplied with; others have one for all experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from evopress.formats.shards import Entry
from evopress.models import LoadedModel
from evopress.models.experts import Place, places, stacked
from evopress.models.routing import Routed


def with_stacks(entries: Sequence[Entry], names: Mapping[str, str], loaded: LoadedModel) -> list[Entry]:
    """The entries under their new `names` (name in the model's state -> name without dropped blocks), those of experts
    put together or split as files have them. An expert's tensors are in the order of their numbers; where some
    are left out, the others are numbered anew.
    """
    own, known = places(loaded.model), {} if loaded.files is None else loaded.files.experts
    groups: dict[str, list[tuple[Place, Entry]]] = {}
    for entry in entries:
        if (place := own.get(entry.name)) is not None:
            groups.setdefault(place.stack(entry.name), []).append((place, entry))
    found: list[Entry] = []
    for entry in entries:
        place = own.get(entry.name)
        if place is None:
            found.append(replace(entry, name=names[entry.name]))
        elif place.number == groups[place.stack(entry.name)][0][0].number:
            stack, moved = place.stack(entry.name), place.stack(names[entry.name])
            members = groups[stack]
            if stack in known and len(known[stack]) >= len(members):
                parts = zip(known[stack], members, strict=False)
                found += [part for split, (_, one) in parts for part in split_rows(one, _moved(split, stack, moved))]
            else:
                found.append(_stack(moved, members))
    return found


def without_experts(
    entries: Sequence[Entry], layers: Sequence[Routed], kept: Mapping[str, tuple[int, ...]]
) -> list[Entry]:
    """The entries (names of the state) without the experts that are not `kept` (layer -> numbers), and without the
    router's rows of these.
    """
    rows = {name: (dim, kept[layer.path]) for layer in layers for name, dim in layer.rows.items()}
    gone = tuple(
        f"{layer.expert(number)}."
        for layer in layers
        for number in range(layer.count)
        if number not in kept[layer.path]
    )
    return [
        _selected(entry, *rows[entry.name]) if entry.name in rows else entry
        for entry in entries
        if not entry.name.startswith(gone)
    ]


def _selected(entry: Entry, dim: int, numbers: tuple[int, ...]) -> Entry:
    shape = (*entry.shape[:dim], len(numbers), *entry.shape[dim + 1 :])
    return replace(entry, shape=shape, make=lambda: entry.make().index_select(dim, torch.tensor(numbers)))


def names_in_files(loaded: LoadedModel) -> dict[str, tuple[str, ...]]:
    """Name in the state of a model -> the names in its files of equal parts of the tensor's rows, in their order.

    Tensors of experts are left out where the files hold several of them in one; so is all that files have otherwise.
    """
    if loaded.files is None:
        return {}
    found: dict[str, tuple[str, ...]] = {name: (own,) for name, own in loaded.files.names.items()}
    for name, place in places(loaded.model).items():
        if known := loaded.files.experts.get(place.stack(name)):
            found[name] = known[place.number]
    return found


def _stack(name: str, members: Sequence[tuple[Place, Entry]]) -> Entry:
    """One entry for all experts."""
    place, first = members[0]
    shape = tuple(reversed(first.shape)) if place.transposed else first.shape

    def make() -> torch.Tensor:
        return stacked([entry.make() for _, entry in members], place.transposed)

    return Entry(name, first.dtype, (len(members), *shape), make)


def split_rows(entry: Entry, names: Sequence[str]) -> Iterator[Entry]:
    """Equal parts of an entry's rows."""
    rows = entry.shape[0] // len(names)
    for number, name in enumerate(names):
        part = partial(_rows, entry, number * rows, rows)
        yield Entry(name, entry.dtype, (rows, *entry.shape[1:]), part)


def _rows(entry: Entry, first: int, count: int) -> torch.Tensor:
    return entry.make()[first : first + count]


def _moved(names: Sequence[str], stack: str, moved: str) -> list[str]:
    """The names of a stack's tensors in the files, of the block that the stack has come to."""
    pairs = zip(stack.split("."), moved.split("."), strict=True)
    changed = next(((old, new) for old, new in pairs if old != new), None)
    if changed is None:
        return list(names)
    return [name.replace(f".{changed[0]}.", f".{changed[1]}.", 1) for name in names]
