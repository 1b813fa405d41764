"""How much of the blocks' weights are units, and what is not: said where it is more than a few numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evopress.errors import UnsupportedModel
from evopress.models.describe import ModelMap, describe

ENOUGH = 0.95
"""From this share on nothing is said: short convolutions and the vectors of heads are a few in a hundred at most."""

FEW = 0.05
"""The largest share of the units that may be narrower than a group: more means that the group is too large."""


def compressible(model: Any, group: int | None) -> ModelMap:
    """The map of a model whose linears can be quantized in groups of so many inputs, None without groups.

    UnsupportedModel when there are none.
    """
    found = describe(model)
    if group is not None:
        found = found.without(narrow(found, group), "narrower than a group")
    if not found.linears:
        raise UnsupportedModel(f"no linear layer of {type(model).__name__} can be compressed")
    return found


def coverage(model_map: ModelMap) -> str:
    """One line about what is left dense, empty where that is little.

    >>> from evopress.models import describe
    >>> from evopress.testing import pico_model
    >>> mapped = describe(pico_model("llama"))
    >>> coverage(mapped)
    ''
    >>> coverage(mapped.without([one.name for one in mapped.linears if "up_proj" in one.name], "too wide"))
    "77.8% of the blocks' weights are compressed; 3 others stay dense: 3 too wide, such as model.layers.0.mlp.up_proj"
    """
    if model_map.share >= ENOUGH:
        return ""
    count = Counter(left.why for left in model_map.left)
    first = {left.why: left.parameter.removesuffix(".weight") for left in reversed(model_map.left)}
    parts = ", ".join(f"{number} {why}, such as {first[why]}" for why, number in count.most_common())
    return (
        f"{model_map.share:.1%} of the blocks' weights are compressed; {len(model_map.left)} others stay dense: {parts}"
    )


def narrow(model_map: ModelMap, group: int) -> list[str]:
    """The linears with fewer inputs than a group, if they are few beside the others."""
    found = [linear for linear in model_map.linears if linear.view.shape[1] < group]
    weights = sum(linear.view.size for linear in model_map.linears)
    small = sum(linear.view.size for linear in found)
    return [linear.name for linear in found] if small <= FEW * weights else []
