"""GGUF models in several files, as large ones are published: the first names the settings, all hold tensors.

Readers of one file see all tensors while `whole` lasts; nothing is copied, the files are mapped into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evopress.errors import ModelError

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def parts(path: Path) -> list[Path]:
    """The files of a GGUF model of which `path` is the only or the first one, in order.

    ModelError for another part than the first, and where a part is not there.
    """
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found[3])
    files = [path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf") for number in range(1, count + 1)]
    if int(found[2]) != 1:
        raise ModelError(f"{path.name} is part {int(found[2])} of {count} of a split GGUF file; give {files[0].name}")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file} is not there, one of {count} parts of a GGUF model; get it, or merge the parts")
    return files


def open_gguf(path: Path) -> Any:
    """A reader of the `gguf` package whose tensors are those of all parts. Its fields are those of the first."""
    from gguf import GGUFReader

    first: Any
    first, *others = (GGUFReader(str(file)) for file in parts(path))
    for reader in others:
        first.tensors += reader.tensors
    return first


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """While active, whoever opens `path` with the `gguf` package gets the tensors of all its parts."""
    if len(parts(path)) == 1:
        yield
        return
    import gguf

    place: Any = gguf
    own = place.GGUFReader

    def reader(file: Any, *arguments: Any) -> Any:
        place.GGUFReader = own
        try:
            return open_gguf(path) if Path(file) == path else own(file, *arguments)
        finally:
            place.GGUFReader = reader

    place.GGUFReader = reader
    try:
        yield
    finally:
        place.GGUFReader = own


def widths_of_experts(file: Path) -> dict[str, int]:
    """The widths of a mixture's experts in a GGUF file, as transformers' configurations call them: its reader takes
    those of the published models.
    """
    reader = open_gguf(file)
    kind = reader.get_field("general.architecture")
    names = {"expert": "moe_intermediate_size", "expert_shared": "shared_expert_intermediate_size"}
    fields = {
        name: reader.get_field(f"{kind.contents()}.{key}_feed_forward_length") for key, name in names.items() if kind
    }
    return {name: int(field.contents()) for name, field in fields.items() if field is not None}
