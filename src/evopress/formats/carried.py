"""What an export takes from the source's files as it is: other towers, tensors that the class does not load, names.

A multimodal model is searched on text, so all that text does not touch keeps its bytes, its dtype and its name.
Tensors that the class takes nothing from (layers that predict several tokens, a second head) are written again; where
blocks are left out, those numbered behind them move up.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from evopress.formats.shards import Entry
from evopress.models import LoadedModel, ModelMap
from evopress.models.source import SourceFiles


def carry(
    entries: Sequence[Entry],
    loaded: LoadedModel,
    model_map: ModelMap,
    gone: Collection[int] = (),
    *,
    own_names: bool = False,
) -> list[Entry]:
    """The entries of a checkpoint without the blocks `gone`, those that are not searched from the source's files.

    Entries have names of the model's state; the result has names of the source's files, with `own_names` for what is
    carried alone: formats that announce modules by name want those of the state.
    """
    files = loaded.files
    if files is None:
        return list(entries)
    found = []
    for entry in entries:
        name = files.names.get(entry.name)
        if name is None:
            found.append(entry)
        elif model_map.untouched_by_text(entry.name):
            found.append(_from_file(files, name))
        else:
            found.append(entry if own_names else replace(entry, name=name))
    return found + _unused(files, model_map, gone)


def copy_companions(loaded: LoadedModel, directory: Path) -> None:
    """The files of processors, and a checkpoint's own code where its configuration names it, byte for byte."""
    if loaded.files is None:
        return
    for file in loaded.files.companions(code=bool(getattr(loaded.model.config, "auto_map", None))):
        out = directory / file.relative_to(loaded.files.directory)
        out.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, out)


def _from_file(files: SourceFiles, name: str) -> Entry:
    dtype, shape = files.about(name)
    return Entry(name, dtype, shape, partial(files.read, name))


def _unused(files: SourceFiles, model_map: ModelMap, gone: Collection[int]) -> list[Entry]:
    prefix = next(
        (
            name.removesuffix(own.removeprefix(f"{model_map.blocks}.0"))[:-1]
            for own, name in files.names.items()
            if own.startswith(f"{model_map.blocks}.0.")
        ),
        f"{model_map.blocks}.",
    )
    found = []
    for name in files.unused:
        entry = _from_file(files, name)
        number, _, rest = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and number.isdecimal():
            if int(number) in gone:
                continue
            moved = int(number) - sum(block < int(number) for block in gone)
            entry = replace(entry, name=f"{prefix}{moved}.{rest}")
        found.append(entry)
    return found
