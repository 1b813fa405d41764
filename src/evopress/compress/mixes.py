"""The mixes of types that llama-quantize makes of its file types, such as Q4_K_M: what a search has to be better than.

Our reading of the rules in llama.cpp's src/llama-quant.cpp, as tables, for models without experts and without Falcon's
exceptions. `scripts/check_llama_cpp.py` holds them against the types that llama.cpp's own quantizer writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evopress.errors import ConfigError
from evopress.ggml_types import GGML_TYPES, fitting_type

Pick = Callable[[int, int, int], str]
"""(rank of the tensor among those of its kind, how many there are, query heads to a key head) -> type."""


@dataclass(frozen=True)
class Mix:
    """A file type: `base` for most tensors, others for attention's v (or fused q, k, v), its output, and down."""

    base: str
    v: Pick | None = None
    output: str | None = None
    down: Pick | None = None


def _favoured(rank: int, count: int) -> bool:
    """The first and last eighth of the blocks, and every third between."""
    return rank < count // 8 or rank >= 7 * count // 8 or (rank - count // 8) % 3 == 2


def _more(better: str, base: str) -> Pick:
    return lambda rank, count, sharing: better if _favoured(rank, count) else base


MIXES: Mapping[str, Mix] = {
    "Q2_K": Mix("Q2_K", lambda rank, count, sharing: "Q4_K" if sharing >= 4 else "Q3_K", "Q3_K", lambda *_: "Q3_K"),
    "Q3_K_S": Mix("Q3_K"),
    "Q3_K_M": Mix(
        "Q3_K",
        lambda rank, count, sharing: "Q5_K" if rank < 2 else "Q4_K",
        "Q4_K",
        lambda rank, count, sharing: "Q5_K" if rank < count // 16 else "Q4_K",
    ),
    "Q3_K_L": Mix("Q3_K", lambda *_: "Q5_K", "Q5_K", lambda *_: "Q5_K"),
    "Q4_K_S": Mix(
        "Q4_K",
        lambda rank, count, sharing: "Q5_K" if rank < 4 else "Q4_K",
        None,
        lambda rank, count, sharing: "Q5_K" if rank < count // 8 else "Q4_K",
    ),
    "Q4_K_M": Mix("Q4_K", _more("Q6_K", "Q4_K"), None, _more("Q6_K", "Q4_K")),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_K_M": Mix("Q5_K", _more("Q6_K", "Q5_K"), None, _more("Q6_K", "Q5_K")),
    "Q6_K": Mix("Q6_K"),
    "Q8_0": Mix("Q8_0"),
}
"""File types by name, the smallest first."""

_NAME = re.compile(r"blk\.(\d+)\.(attn_v|attn_qkv|attn_output|ffn_down)\.weight")


def mix_types(mix: str, columns: Mapping[str, int], *, blocks: int, heads: int, key_heads: int) -> dict[str, str]:
    """The type of each matrix in a file that llama-quantize makes as `mix`, after its fallbacks for odd widths.

    `columns` are the widths of the rows by the matrices' GGUF names; a model without `output.weight` has a tied head.
    `blocks`, `heads` and `key_heads` are the model's. ConfigError for an unknown mix.

    >>> mix_types("Q4_K_M", {"token_embd.weight": 576, "blk.0.ffn_down.weight": 1536}, blocks=1, heads=9, key_heads=3)
    {'token_embd.weight': 'Q8_0', 'blk.0.ffn_down.weight': 'Q6_K'}
    """
    if mix not in MIXES:
        raise ConfigError(f"mix {mix!r} is unknown, must be one of {', '.join(MIXES)}")
    rules, sharing = MIXES[mix], heads // key_heads
    end = "output.weight" if "output.weight" in columns else "token_embd.weight"
    values = sorted(int(found[1]) for name in columns if (found := _NAME.fullmatch(name)) and _is_value(found[2]))
    types = {}
    for name, width in columns.items():
        found = _NAME.fullmatch(name)
        if name == end:
            wanted = _of_head(rules.base, width)
        elif found is None:
            wanted = rules.base
        elif _is_value(found[2]):
            wanted = _of_value(rules, values.index(int(found[1])), len(values), sharing, blocks)
        elif found[2] == "ffn_down":
            wanted = rules.down(int(found[1]), blocks, sharing) if rules.down else rules.base
        else:
            wanted = rules.output or rules.base
        types[name] = fitting_type(wanted, width)
    return types


def _is_value(part: str) -> bool:
    return part in ("attn_v", "attn_qkv")


def _of_head(base: str, width: int) -> str:
    """The head, or the embeddings that serve as one, have 6 bits, or 8 where the width does not fit the base type."""
    return "Q8_0" if base == "Q8_0" or width % GGML_TYPES[base].block else "Q6_K"


def _of_value(rules: Mix, rank: int, count: int, sharing: int, blocks: int) -> str:
    kind = rules.v(rank, count, sharing) if rules.v else rules.base
    if blocks == 80 and sharing > 1 and kind in ("Q3_K", "Q4_K"):
        return "Q5_K"  # llama.cpp takes 80 blocks with shared key heads for a 70B model
    return kind
