"""The step `export`: the profile and its levels become a checkpoint, which is loaded to see that it is right."""

from __future__ import annotations

from pathlib import Path

from evopress.errors import VerificationError
from evopress.formats.card import write_card
from evopress.formats.formats import find_format
from evopress.formats.shards import weight_bytes
from evopress.formats.staging import staged, withdraw
from evopress.run.records import read_fitting
from evopress.steps.cards import make_card
from evopress.steps.workspace import Workspace


def export(
    workspace: Workspace,
    out: Path | None = None,
    profile: Path | None = None,
    format: str | None = None,
    verify: bool = True,
) -> Path:
    """Write the searched profile, or that of the file `profile`, as a checkpoint and load it to see that it is right.

    `format` is a name from `evopress.formats.formats`, by default that of the run's target. Returns the checkpoint's
    directory: `out`, or `export/` in the run, `export-FORMAT/` for another format than the run's own.
    VerificationError when the files have another size than predicted, or other logits than the searched model; then no
    loader accepts the directory.
    """
    config = workspace.config
    chosen = find_format(format or config.format, config.families)
    chosen.check(workspace.plain_source)
    target = out or workspace.run.export_to(chosen.name)
    found = read_fitting(profile or workspace.run.profile, workspace.space, workspace.family.from_text)
    stored = workspace.source, workspace.content(found)
    predicted = chosen.predicted_bytes(*stored)
    with staged(target, predicted) as partial:
        chosen.write(*stored, partial, lambda done, total: workspace.observer.progress("export", done, total))
        if (written := weight_bytes(partial)) != predicted:
            raise VerificationError(
                f"the weights of {target} take {written} bytes, predicted were {predicted}; report this"
            )
        card = make_card(workspace, chosen.name, chosen.about(*stored), found, target.name, written)
        write_card(partial, card)
    for note in card.notes:
        workspace.observer.note(note)
    if verify:
        result = chosen.verify(*stored, target, workspace.searched(found))
        if result.failed:
            withdraw(target)
            raise VerificationError(f"{target} is not the searched model: {result}; report this")
        workspace.observer.note(str(result))
    return target
