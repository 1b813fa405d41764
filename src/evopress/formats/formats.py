"""The table of formats: add a class to it, and `--format`, targets, sizes and the tests of all formats know it."""

from __future__ import annotations

from evopress.errors import ConfigError
from evopress.formats.compressed_tensors import CompressedTensors
from evopress.formats.format import Format
from evopress.formats.gguf_format import Gguf, LlamaQuantize
from evopress.formats.gptq import Gptq
from evopress.formats.hf import HuggingFace
from evopress.formats.mlx import Mlx
from evopress.search.presets import ApplicationName

FORMATS: dict[str, Format] = {
    format.name: format for format in (HuggingFace(), CompressedTensors(), Gguf(), LlamaQuantize(), Gptq(), Mlx())
}
"""Name -> format."""


def find_format(name: str, families: tuple[ApplicationName, ...]) -> Format:
    """The format of that name; ConfigError when there is none or it cannot hold profiles of these families together."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    found = FORMATS[name]
    if families not in found.holds:
        fitting = [other.name for other in FORMATS.values() if families in other.holds]
        raise ConfigError(f"format {name} holds no {' and '.join(families)} profiles; use {', '.join(fitting)}")
    return found
