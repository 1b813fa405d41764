"""The found profile's levels once more by the method that made the database, for the inputs that the profile gives.

The database's levels were made before any profile was known, for inputs at one level. Costs a build with one level a
unit, and is resumed as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evopress.database.build import build_database
from evopress.database.chosen import Chosen
from evopress.database.methods import Pruning, Quantization
from evopress.database.store import Database
from evopress.steps.workspace import Workspace


def sweep_again(workspace: Workspace, levels: Mapping[str, str], directory: Path) -> Database:
    """A database in `directory` of the `levels`, unit -> level, of a run whose method sweeps (`config.sweeps`)."""
    method = workspace.family.method
    if not isinstance(method, Quantization | Pruning):
        raise TypeError(f"{type(method).__name__} has no sweep")
    return build_database(
        directory,
        workspace.runner,
        Chosen(method=method, levels=levels),
        workspace.splits.calibration.sequences,
        workspace.fingerprints,
        batch_tokens=workspace.batch_tokens,
        progress=lambda done, total, what: workspace.observer.progress("polish", done, total, f"sweep, {what}"),
    )
