"""The step `build`: model and calibration text become the database."""

from __future__ import annotations

from pathlib import Path

from evopress.database.build import build_database
from evopress.fitness.divergence import make_measure
from evopress.run.directory import locked
from evopress.run.records import read_profile
from evopress.steps.workspace import Workspace


def build(workspace: Workspace) -> None:
    """Make the database, or what is missing of it; nothing where levels need none."""
    if not workspace.fitness:
        make_measure(workspace.config.search.fitness)
    if (start := workspace.config.search.start_profile) is not None:
        read_profile(Path(start), workspace.family.from_text)
    method = workspace.family.method
    if method is None:
        return
    workspace.require_build_memory(method)
    workspace.observer.note(f"levels: {method}")
    with locked(workspace.run.database):  # other runs may share it
        build_database(
            workspace.run.database,
            workspace.runner,
            method,
            workspace.splits.calibration.sequences,
            workspace.fingerprints,
            batch_tokens=workspace.batch_tokens,
            progress=lambda done, total, what: workspace.observer.progress("build", done, total, what),
        )
    units = workspace.database.manifest.units.values()
    if idle := sum(unit.tokens == 0 for unit in units):
        workspace.observer.note(
            f"the calibration text reaches none of {idle} of {sum(unit.tokens is not None for unit in units)} matrices "
            "of experts: they are made for the tokens of the others in their layers; more --calibration-tokens help"
        )
