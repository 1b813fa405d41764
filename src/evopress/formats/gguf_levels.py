"""From a profile to what a GGUF file takes in the place of the model's own weights: their ggml types and bytes.

Types are known without reading a level, so that a file's size is, too; bytes are read or made one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from evopress.core.profile import DROP, Profile
from evopress.database.store import Database
from evopress.errors import ProfileError
from evopress.formats.gguf import DENSE_TYPES
from evopress.levels.ggml import Ggml, pack_ggml


def level_types(profile: Profile, database: Database) -> dict[str, str]:
    """Parameter name -> ggml type of a profile whose levels lie in a database of ggml types; else ProfileError."""
    types = {}
    for unit, level in kept_levels(profile):
        entry = database.manifest.units[unit]
        kind = entry.level(level).ggml
        if kind is None:
            raise ProfileError(f"level {level} of {unit} is no ggml type; build the database with the target llamacpp")
        types[entry.view.parameter] = kind
    return types


def kept_levels(profile: Profile) -> list[tuple[str, str]]:
    """Weight and level of all that are not dropped with a part of the model."""
    return [(unit, level) for unit, level in profile.items() if level != DROP]


def level_packs(profile: Profile, database: Database) -> dict[str, Callable[[], Ggml]]:
    """Parameter name -> what reads its level from the database."""

    def reader(unit: str, level: str) -> Callable[[], Ggml]:
        def read() -> Ggml:
            packed = database.load(unit, level)
            assert isinstance(packed, Ggml)  # `level_types` has looked
            return packed

        return read

    return {database.manifest.units[unit].view.parameter: reader(unit, level) for unit, level in kept_levels(profile)}


def dense_packs(
    tensors: Mapping[str, Callable[[torch.dtype], torch.Tensor]], dtype: torch.dtype
) -> dict[str, Callable[[], Ggml]]:
    """Parameter name -> what makes its tensor, as numbers of a `dtype` that are stored as they are: zeros too."""

    def maker(make: Callable[[torch.dtype], torch.Tensor]) -> Callable[[], Ggml]:
        return lambda: pack_ggml(make(dtype), DENSE_TYPES[dtype])

    return {name: maker(make) for name, make in tensors.items()}
