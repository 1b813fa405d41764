"""What was polished, how, and whether it counts: polish.json, which says so from the first moment on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from evopress.core.files import write_text
from evopress.errors import RunError, SchemaError

SCHEMA = 1
FILE = "polish.json"

Phase = Literal["sweep", "blocks", "model"]


@dataclass(frozen=True)
class PolishRecord:
    """What polish.json says: whose levels, made how (`settings`), and once it is `done` which phase counts, if any.

    `blocks` are each block's errors before and after; `watched` the divergences on the text that decided: `unpolished`,
    `sweep`, `blocks`, and `model 1` and so on after each epoch.
    """

    settings: Mapping[str, Any]
    profile: Mapping[str, str]
    done: bool = False
    result: Phase | None = None
    blocks: tuple[tuple[float, float], ...] = ()
    watched: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def write_record(directory: Path, record: PolishRecord) -> None:
    """Write polish.json."""
    write_text(directory / FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_record(directory: Path) -> PolishRecord | None:
    """What polish.json says; None where there is none, RunError for a damaged one."""
    path = directory / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = int(data["schema"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete {directory} and run the polish step again") from None
    if schema > SCHEMA:
        raise SchemaError(f"{path} has schema {schema}, this evopress reads up to {SCHEMA}; update evopress")
    return PolishRecord(**{**data, "blocks": tuple((before, after) for before, after in data["blocks"])})


def summary(record: PolishRecord) -> str:
    """One line that says what a polish came to."""
    before, *others = record.watched.values()
    if not others:
        return "polish: the levels were made for just these inputs already, so they stay as they are"
    if record.result is None:
        return f"polish: KL on the watched text {before:.4g}, then {min(others):.4g} at best: levels stay as they are"
    return f"polish: KL on the watched text {before:.4g} -> {min(others):.4g} ({record.result})"
