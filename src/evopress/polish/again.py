"""The second round: the search goes on from the polished model, and what it finds is polished in its turn.

What was learned makes the levels of one profile better than the database has them, and some of its neighbours with
them: sensitivities are others now. `again/` in the run directory is a run of its own, but that its database has the
learned levels in their places. It costs another search and another polish; what it comes to replaces the first round's
profile only if its KL on the watched text is below.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from evopress.core.polish_record import PolishRecord, read_record
from evopress.core.profile import Profile
from evopress.polish.step import polish_levels
from evopress.run.directory import RunDirectory, start_run
from evopress.run.records import read_json, read_profile, write_profile
from evopress.settings.sections import PolishSection
from evopress.steps.search import search
from evopress.steps.workspace import Workspace


def first_profile(run: RunDirectory) -> Profile:
    """The profile that the first round polishes, also where the second has replaced it; RunError without a search."""
    record = read_record(run.polished) if run.again.exists() else None
    return read_profile(run.profile) if record is None else Profile.of(record.profile)


def second_round(workspace: Workspace, section: PolishSection, record: PolishRecord) -> PolishRecord:
    """Search on from the profile of the first round's `record`, polish what that finds, and keep the better of the two.

    Returns the record of what counts. An interrupted round goes on where it was. Raises the errors of `polish_levels`.
    """
    note, first = workspace.observer.note, Profile.of(record.profile)
    if record.result is None:
        note("round 2: nothing was learned, so there is nothing new to search on; it is left out")
        return record
    again = beside(workspace, record, first)
    if not again.run.profile.exists():
        note("round 2: the search goes on from the polished model")
        search(again)
    found = read_profile(again.run.profile)
    if found == first:
        note("round 2: the search found nothing better than where it began")
        return record
    second = polish_levels(again, section, found, again.run.polished, sweep=False)
    changed = sum(level != dict(first.items())[unit] for unit, level in found.items())
    before, after = min(record.watched.values()), min(second.watched.values())
    better = after < before
    if better and read_profile(workspace.run.profile) != found:
        text = again.run.profile.with_suffix(".txt").read_text(encoding="utf-8")
        write_profile(workspace.run, text, read_json(again.run.profile, "search") | {"rounds": 2})
    kept = "the second" if better else "the first"
    note(f"round 2: {changed} levels changed; KL on the watched text {before:.4g} -> {after:.4g}: {kept} counts")
    return second if better else record


def beside(workspace: Workspace, record: PolishRecord, first: Profile) -> Workspace:
    """The run in `again/`, on the same model and text."""
    made = Workspace(start_run(workspace.run.again, workspace.config), workspace.observer, workspace.fitness)
    made.loaded, made.map, made.runner = workspace.loaded, workspace.map, workspace.runner
    made.splits, made.goes_on_from = workspace.splits, first
    if (levels := workspace.polished(first)) is not None:
        made.database = levels
    digest = hashlib.sha256(json.dumps(asdict(record)).encode()).hexdigest()
    made.fingerprints = workspace.fingerprints | {"first round": digest}
    return made
