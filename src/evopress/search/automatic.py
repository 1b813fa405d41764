"""What `auto` means: the parts of the search that a run has unless it says otherwise, and why.

Every part can be chosen alone; `auto` is the choice that measurements favour (docs/log.md). It depends on what is
compressed, on the schedule and on what was said of the other parts, never on a random number, and what it came to is a
part of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

AUTO = "auto"

RACE_TOKENS = 2048
"""A stage of fewer tokens has parts of fewer than 256, whose differences say nothing."""


def automatic(families: Sequence[str], last_stage: int, start: str = "sensitivity") -> dict[str, Any]:
    """Setting -> value of `auto`, for families that are searched together, the tokens of the last stage and the start.

    After measured sensitivities whole roles and bands have little left to trade, and a surrogate ranks offspring of
    many changes by its luckiest errors: single switches it is. Elsewhere moves of several sizes open the search.

    >>> automatic(["bits"], 4096)
    {'start': 'sensitivity', 'mutation': 'free', 'preselect': 8, 'race': True}
    """
    fine = start == "sensitivity" and "depth" not in families
    return {
        "start": "sensitivity",
        "mutation": "free" if fine else "adaptive",
        "preselect": 8,
        "race": last_stage >= RACE_TOKENS,
    }


def resolve_automatic(values: Mapping[str, Any], families: Sequence[str], last_stage: int) -> dict[str, Any]:
    """Values for those of the settings above that `values` lacks, or has as None or `auto`; `automatic` lists them."""
    said = {name: value for name, value in values.items() if value not in (None, AUTO)}
    found = automatic(families, last_stage, said.get("start", "sensitivity"))
    left = {name: value for name, value in found.items() if name not in said}
    return left | {"automatic": tuple(left)}
