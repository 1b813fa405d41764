"""llama-quantize's `--tensor-type-file`: the profile for those who quantize with llama.cpp's own tool, and back.

A file holds `pattern=type` words, apart by spaces or lines; a pattern is a regular expression that is searched in the
names of tensors, and the first that is found decides (llama.cpp, tools/quantize and src/llama-quant.cpp). What is
written here matches one tensor each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evopress.errors import ProfileError
from evopress.ggml_types import GGML_TYPES, fitting_type
from evopress.profile import Profile


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors in whose name `pattern` is found get the ggml type `type`."""

    pattern: re.Pattern[str]
    type: str


def write_tensor_types(types: Mapping[str, str], names: Mapping[str, str]) -> str:
    r"""The file for parameters of ggml `types`, with their GGUF `names` (see `gguf_names`).

    >>> print(write_tensor_types({"model.norm.weight": "Q4_K"}, {"model.norm.weight": "output_norm.weight"}), end="")
    ^output_norm\.weight$=q4_k
    """
    return "".join(f"^{re.escape(names[parameter])}$={kind.lower()}\n" for parameter, kind in types.items())


def parse_tensor_types(text: str) -> tuple[Rule, ...]:
    """The rules of a file, in order; ProfileError names the first word that is none.

    >>> [rule.type for rule in parse_tensor_types("attn_v=Q6_K ffn_down=q4_k")]
    ['Q6_K', 'Q4_K']
    """
    rules = []
    for word in text.split():
        pattern, separator, kind = word.partition("=")
        if not separator or not pattern:
            raise ProfileError(f"{word!r} in the file of tensor types is not pattern=type, such as attn_v=q6_k")
        if kind.upper() not in GGML_TYPES:
            raise ProfileError(f"{word!r} in the file of tensor types names no ggml type, must be one of {_known()}")
        try:
            rules.append(Rule(re.compile(pattern.lower()), kind.upper()))
        except re.error as error:
            raise ProfileError(f"{word!r} in the file of tensor types is no regular expression: {error}") from None
    return tuple(rules)


def is_tensor_types(text: str) -> bool:
    """Whether a text looks like such a file, and not like a profile of `name: level` lines or JSON."""
    words = text.split()
    return bool(words) and all("=" in word and not word.endswith(":") for word in words)


def read_tensor_types(
    text: str, names: Mapping[str, str], columns: Mapping[str, int], *, default: str | None = None
) -> Profile:
    """The profile that a file describes, with the types that really fit each weight's width.

    `names` are the GGUF names of the units' tensors, `columns` the widths of their rows. `default` is for units without
    a rule, like the type that llama-quantize is given; without it they are a ProfileError. Rules for other tensors
    (embeddings, head) are left to the caller.

    >>> read_tensor_types("attn_v=Q8_0", {"layers.0.v": "blk.0.attn_v.weight"}, {"layers.0.v": 64})["layers.0.v"]
    'Q8_0'
    """
    rules = parse_tensor_types(text)
    choice = {}
    for unit, name in names.items():
        kind = next((rule.type for rule in rules if rule.pattern.search(name)), default)
        if kind is None:
            raise ProfileError(f"no rule of the file of tensor types matches {name}; add one or give a default type")
        choice[unit] = fitting_type(kind, columns[unit])
    return Profile.of(choice)


def _known() -> str:
    return ", ".join(name.lower() for name in GGML_TYPES)
