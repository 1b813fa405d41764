"""What `auto` means: the parts of the search that a run has unless it says otherwise, and why.

Every part can be chosen alone; `auto` is the choice that measurements favour (docs/log.md). It depends on what is
compressed and on the schedule only, never on a random number, and what it came to is a part of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AUTO = "auto"

RACE_TOKENS = 2048
"""A stage of fewer tokens has parts of fewer than 256, whose differences say nothing."""


def automatic(application: str, last_stage: int) -> dict[str, Any]:
    """Setting -> value of `auto`, for an application and the tokens of the last stage.

    >>> automatic("bits", 4096)["start"]
    'sensitivity'
    """
    return {
        "start": "sensitivity",
        "mutation": "adaptive",
        "preselect": 8,
        "race": last_stage >= RACE_TOKENS,
    }


def resolve_automatic(values: Mapping[str, Any], application: str, last_stage: int) -> dict[str, Any]:
    """Values for those of the settings above that `values` lacks, or has as None or `auto`; `automatic` lists them."""
    found = automatic(application, last_stage)
    open_ones = [name for name in found if values.get(name) in (None, AUTO)]
    return {name: found[name] for name in open_ones} | {"automatic": tuple(open_ones)}
