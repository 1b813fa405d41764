"""The files of results in a run directory: sensitivity.json, profile.json, evaluation.json, and the sizes they report.

They hold nothing that differs between two runs of the same configuration, except seconds in evaluation.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evopress.errors import RunError, SchemaError
from evopress.files import write_text
from evopress.profile import Profile

if TYPE_CHECKING:
    from evopress.fitness.sensitivity import Sensitivity
    from evopress.workspace import Workspace

SCHEMA = 1
DENSE_BITS = 16
"""Bits a dense weight counts as, whatever dtype the run computes in: half precision is what models are served in."""


def sizes(workspace: Workspace, profile: Profile | None) -> dict[str, float | int]:
    """Average code bits, average stored bits (bpw) of the compressed layers, and bytes of the whole packed model."""
    weights = workspace.space.total_weights
    others = workspace.shapes.parameters - weights
    if profile is None:
        codes = stored = DENSE_BITS * weights
    else:
        units = workspace.database.manifest.units
        levels = [units[name].level(level) for name, level in profile.items()]
        codes = sum(level.code_bits for level in levels)
        stored = sum(level.storage_bits for level in levels)
    return {
        "bits": codes / weights,
        "bpw": stored / weights,
        "bytes": (stored + DENSE_BITS * others + 7) // 8,
    }


def write_profile(workspace: Workspace, profile: Profile, score: float, tokens: int) -> None:
    """Write profile.json and, beside it, the official code's text format."""
    config, space = workspace.config, workspace.space
    data = {
        "schema": SCHEMA,
        "profile": dict(profile.items()),
        "budget": config.budget.model_dump() | {"limit": space.budget, "cost": space.cost(profile)},
        **sizes(workspace, profile),
        "fitness": {"name": config.search.fitness, "score": score, "tokens": tokens},
        "seed": config.search.seed,
        "fingerprints": workspace.fingerprints | {"search": workspace.splits.search.fingerprint},
        "versions": versions(),
    }
    write_text(workspace.run.profile.with_suffix(".txt"), profile.to_text())
    write_text(workspace.run.profile, json.dumps(data, indent=1) + "\n")


def read_profile(path: Path) -> Profile:
    """A profile from profile.json or from the official text format; RunError when it is missing or damaged."""
    if path.suffix != ".json":
        try:
            return Profile.from_text(path.read_text(encoding="utf-8"))
        except OSError:
            raise RunError(f"no profile in {path}; give a profile.json or a file of 'name: level' lines") from None
    data = read_json(path)
    if data.get("schema", SCHEMA) > SCHEMA:
        raise SchemaError(f"{path} has schema {data['schema']}, this evopress reads up to {SCHEMA}; update evopress")
    try:
        return Profile.of(data["profile"])
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged: it holds no profile; run the search step again") from None


def write_sensitivity(workspace: Workspace, sensitivity: Sensitivity, fingerprint: Mapping[str, Any]) -> None:
    """Write sensitivity.json; `fingerprint` is what it depends on."""
    data = {"schema": SCHEMA, "fingerprint": dict(fingerprint), **sensitivity.to_json()}
    write_text(workspace.run.sensitivity, json.dumps(data, indent=1) + "\n")


def read_sensitivity(path: Path, fingerprint: Mapping[str, Any]) -> Sensitivity | None:
    """The sensitivities of that fingerprint; None when there are none or others, RunError when they are damaged."""
    from evopress.fitness.sensitivity import Sensitivity  # here, so that reading other records loads no torch

    if not path.exists():
        return None
    data = read_json(path)
    if data.get("fingerprint") != fingerprint:
        return None
    try:
        return Sensitivity.from_json(data)
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged: it holds no sensitivities; delete it and run the search again") from None


def write_evaluation(workspace: Workspace, result: dict[str, Any]) -> None:
    """Write evaluation.json."""
    write_text(workspace.run.evaluation, json.dumps(result, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run directory; RunError says which step makes a missing file."""
    step = {"sensitivity.json": "search", "profile.json": "search", "evaluation.json": "evaluate"}.get(
        path.name, "build"
    )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the {step} step first") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run the {step} step again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} is damaged: expected an object; delete it and run the {step} step again")
    return data


def versions() -> dict[str, str]:
    """Versions of evopress and of the libraries that decide numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("evopress", "torch", "transformers", "numpy")}
