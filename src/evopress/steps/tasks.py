"""Zero-shot and other tasks on the models of a run: dense, uniform and searched, with the same settings and seeds.

Each is assembled in memory, in the model that the run has loaded, so nothing is exported or read again. A task costs
what the harness's requests cost: one forward pass for each choice of each document, for each of the models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evopress.core.files import write_text
from evopress.core.profile import Profile
from evopress.run.records import SCHEMA, read_json
from evopress.steps.harness import Harness, TaskSettings
from evopress.steps.scoring import POLISHED, shown_profiles
from evopress.steps.workspace import Workspace


def evaluate_tasks(
    workspace: Workspace, names: Sequence[str], settings: TaskSettings, profile: Path | None = None
) -> dict[str, Any]:
    """Run tasks by name on the dense, the uniform and the searched model; returns what tasks.json keeps of it.

    Where a family has no uniform profile, its other references take that place. `profile` is a file with another
    profile that is evaluated too, as `given`; tasks.json is then left as it is. Raises what `Harness` raises.
    """
    started = time.monotonic()
    profiles = _profiles(workspace, profile)
    workspace.observer.note(f"loading the tasks {', '.join(names)}")
    harness = Harness(names, settings)
    results = {}
    for name, one in profiles.items():
        with workspace.assembly(polished=one if name in POLISHED else None) as assembly:
            assembly.apply(one)
            results[name] = harness.run(
                workspace.loaded.model,
                workspace.loaded.tokenizer,
                workspace.bos is not None,
                lambda done, total, name=name: workspace.observer.progress(name, done, total),  # type: ignore[misc]
            )
    kept = settings.record() | {"bos": workspace.bos}
    found = {"tasks": list(names), "settings": kept, "profiles": results}
    if profile is None:
        _write(workspace.run.tasks, found)
    return found | {"seconds": round(time.monotonic() - started, 1)}


def _profiles(workspace: Workspace, given: Path | None) -> dict[str, Profile | None]:
    references = workspace.family.references
    spare = [name for name in references if "uniform" in references and name != "uniform"]
    return {name: one for name, one in shown_profiles(workspace, given).items() if name not in spare}


def _write(path: Path, found: dict[str, Any]) -> None:
    """Add one evaluation to tasks.json, in place of an earlier one of the same tasks with the same settings."""
    known = read_json(path, "evaluate")["evaluations"] if path.exists() else []
    same = ("tasks", "settings")
    others = [one for one in known if any(one[key] != found[key] for key in same)]
    write_text(path, json.dumps({"schema": SCHEMA, "evaluations": [*others, found]}, indent=1) + "\n")
