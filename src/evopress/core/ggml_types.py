"""The types of ggml, as names and sizes: what llama.cpp can store, and what llama-quantize does with odd widths.

Plain data apart from the quantizers (`evopress.levels.ggml`), so that a configuration can name types without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evopress.errors import ConfigError

ALIGNMENT = 32  # bytes where tensors may start in a GGUF file


@dataclass(frozen=True)
class GgmlType:
    """How a type lays out a row: every `block` weights take `bytes` bytes.

    `fallback` is what llama-quantize takes instead where the block does not divide a row (None: it gives up), and
    `needs_importance` says that it refuses the type without an importance matrix. `scales` are the places, in bytes, of
    a block's fp16 numbers: its weights are a sum of them, each times something that the other bytes say.
    """

    block: int
    bytes: int
    fallback: str | None = None
    needs_importance: bool = False
    scales: tuple[int, ...] = ()


# ggml's block sizes, and the rules of llama.cpp's src/llama-quant.cpp (tensor_type_fallback, tensor_requires_imatrix).
# Before 2026 its Q2_K and Q3_K fell back to IQ4_NL, which has the same size as Q4_0.
GGML_TYPES: Mapping[str, GgmlType] = {
    "IQ1_S": GgmlType(256, 50, "IQ4_NL", True, scales=(0,)),
    "TQ1_0": GgmlType(256, 54, "Q4_0", scales=(52,)),
    "IQ1_M": GgmlType(256, 56, "IQ4_NL", True),
    "IQ2_XXS": GgmlType(256, 66, "IQ4_NL", True, scales=(0,)),
    "TQ2_0": GgmlType(256, 66, "Q4_0", scales=(64,)),
    "IQ2_XS": GgmlType(256, 74, "IQ4_NL", True, scales=(0,)),
    "IQ2_S": GgmlType(256, 82, "IQ4_NL", True, scales=(0,)),
    "Q2_K": GgmlType(256, 84, "Q4_0", scales=(80, 82)),
    "IQ3_XXS": GgmlType(256, 98, "IQ4_NL", True, scales=(0,)),
    "IQ3_S": GgmlType(256, 110, "IQ4_NL", scales=(0,)),
    "Q3_K": GgmlType(256, 110, "Q4_0", scales=(108,)),
    "IQ4_XS": GgmlType(256, 136, "IQ4_NL", scales=(0,)),
    "MXFP4": GgmlType(32, 17),
    "IQ4_NL": GgmlType(32, 18, scales=(0,)),
    "Q4_0": GgmlType(32, 18, scales=(0,)),
    "Q4_K": GgmlType(256, 144, "Q5_0", scales=(0, 2)),
    "Q4_1": GgmlType(32, 20, scales=(0, 2)),
    "Q5_0": GgmlType(32, 22, scales=(0,)),
    "Q5_K": GgmlType(256, 176, "Q5_1", scales=(0, 2)),
    "Q5_1": GgmlType(32, 24, scales=(0, 2)),
    "Q6_K": GgmlType(256, 210, "Q8_0", scales=(208,)),
    "Q8_0": GgmlType(32, 34, scales=(0,)),
    "BF16": GgmlType(1, 2),
    "F16": GgmlType(1, 2),
    "F32": GgmlType(1, 4),
}
"""Every type that can be a level, the smallest first."""


def ggml_type(name: str) -> GgmlType:
    """The type called `name`; ConfigError lists those that exist.

    >>> ggml_type("Q4_K")
    GgmlType(block=256, bytes=144, fallback='Q5_0', needs_importance=False, scales=(0, 2))
    """
    if name not in GGML_TYPES:
        raise ConfigError(f"ggml type {name!r} is unknown, must be one of {', '.join(GGML_TYPES)}")
    return GGML_TYPES[name]


def fitting_type(name: str, columns: int) -> str:
    """The type that a row of `columns` weights really gets when `name` is asked for, as llama-quantize chooses it.

    ConfigError where llama-quantize gives up too: a row that no block of 32 divides, and a type without fallback.

    >>> fitting_type("Q3_K", 1536), fitting_type("Q3_K", 576), fitting_type("Q3_K", 100)
    ('Q3_K', 'Q4_0', 'F16')
    """
    wanted = ggml_type(name)
    if columns % wanted.block == 0:
        return name
    if wanted.fallback is None:
        raise ConfigError(f"ggml type {name} does not fit {columns} columns, {wanted.block} must divide them")
    return wanted.fallback if columns % GGML_TYPES[wanted.fallback].block == 0 else "F16"


def fitting_types(names: Iterable[str], columns: int) -> tuple[str, ...]:
    """What rows of `columns` weights can choose from when `names` are asked for: no two of one size, smallest first.

    Of types of one size the one that was asked for first stays, because a level must have a cost of its own.

    >>> fitting_types(["Q2_K", "Q3_K", "Q4_K", "Q6_K"], 576)
    ('Q4_0', 'Q5_0', 'Q8_0')
    """
    of_size: dict[int, str] = {}
    for name in names:
        fitting = fitting_type(name, columns)
        of_size.setdefault(row_bytes(fitting, columns), fitting)
    return tuple(of_size[size] for size in sorted(of_size))


def row_bytes(name: str, columns: int) -> int:
    """Bytes of one row of `columns` weights; ConfigError when the type's block does not divide them.

    >>> row_bytes("Q4_K", 512)
    288
    """
    kind = ggml_type(name)
    if columns % kind.block:
        raise ConfigError(f"ggml type {name} does not fit {columns} columns, {kind.block} must divide them")
    return columns // kind.block * kind.bytes


def ggml_storage_bits(shape: tuple[int, int], name: str) -> int:
    """Exact bits of a (rows, columns) matrix stored as the type `name`.

    >>> ggml_storage_bits((10, 256), "Q6_K")
    16800
    """
    return shape[0] * row_bytes(name, shape[1]) * 8


def padded(count: int) -> int:
    """Bytes that `count` bytes take in a GGUF file: what the level of a weight really costs.

    >>> padded(1), padded(64)
    (32, 64)
    """
    return -(-count // ALIGNMENT) * ALIGNMENT
