"""The step `polish` of a run: learn the levels of the profile that was found, and keep what helps.

    sweep    calibration text, made again for the inputs that the profile gives   -> polished/sweep/
    blocks   learned block after block                                            -> polished/blocks/
    model    learned end to end                                                   -> polished/model/

What is learned from is more text than Hessians need: calibration and search text, and what comes behind. Text behind
that is only watched: its divergence decides after each phase whether the phase counts; where none does, polish.json
says so and the run goes on with the levels of the database, which is never changed. A polish that was interrupted goes
on at its first missing block or epoch, to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from evopress.core.polish_record import PolishRecord, read_record, summary, write_record
from evopress.core.profile import DENSE, Profile
from evopress.errors import ConfigError, NotEnoughTokens, RunMismatch
from evopress.models.memory import polish_memory, require_memory
from evopress.polish.phases import Phases
from evopress.settings.config import nothing_to_learn
from evopress.settings.sections import PolishSection
from evopress.steps.workspace import Workspace
from evopress.text.tokens import Tokens


def polish_levels(
    workspace: Workspace, section: PolishSection, profile: Profile, directory: Path, *, sweep: bool = True
) -> PolishRecord:
    """Learn the levels of a profile as `section` says, into `directory`, or go on learning; nothing where it is done.

    Without `sweep` levels are not made again before they learn: what was learned already would be lost.

    Raises ConfigError for levels in which nothing can be learned, NotEnoughTokens for search text that leaves none to
    learn from or to watch, RunMismatch for a directory with what was polished otherwise, ResourceError for too little
    memory.
    """
    if why := nothing_to_learn(workspace.config.compression):
        raise ConfigError(f"--polish {section.polish} cannot be done: {why}; leave it out")
    text, watched = _text(workspace, section)
    wanted = _settings(workspace, section, profile, text)
    known = read_record(directory)
    if known is not None and known.settings != wanted:
        differs = [
            f"{key}: {known.settings.get(key)} -> {wanted[key]}"
            for key in wanted
            if known.settings.get(key) != wanted[key]
        ]
        raise RunMismatch(f"{directory} was made with other settings ({'; '.join(differs)}); delete it to polish again")
    if known is not None and known.done:
        return known
    needs = polish_memory(workspace.shapes, text.total, section.polish_batch)
    require_memory(needs, workspace.free_memory, "the polish")
    directory.mkdir(exist_ok=True)
    record = PolishRecord(wanted, dict(profile.items()))
    write_record(directory, record)
    record = Phases(workspace, section, profile, directory, text, watched, sweep).run(record)
    write_record(directory, record)
    workspace.observer.note(summary(record))
    return record


def _text(workspace: Workspace, section: PolishSection) -> tuple[Tokens, int]:
    """What is learned from and at its end what is watched, and how much that is: of a short text a quarter."""
    text = workspace.text_to_learn(section.polish_tokens + section.polish_watched)
    if len(text.sequences) < 2:
        raise NotEnoughTokens(
            f"{text.source} has one sequence of {text.total} tokens for a polish, which leaves nothing to watch; give "
            "more text or --polish none"
        )
    watched = min(section.polish_watched, text.total // 4)
    if text.total < section.polish_tokens + section.polish_watched:
        workspace.observer.note(
            f"polish: {text.source} has {text.total} tokens of the {section.polish_tokens} to learn from and "
            f"{section.polish_watched} to watch; {watched} of them are watched"
        )
    return text, watched


def _settings(workspace: Workspace, section: PolishSection, profile: Profile, text: Tokens) -> dict[str, Any]:
    """All that a polish depends on, as JSON values: settings by name, and digests of the rest."""
    units = {} if workspace.family.method is None else workspace.database.manifest.units
    levels = {name: units[name].sha256 for name, level in profile.items() if name in units and level != DENSE}
    digests = {"profile": dict(profile.items()), "levels": levels}
    return {
        **section.model_dump(exclude={"polish_uniform", "rounds"}),
        "seed": workspace.config.search.seed,
        "calibration": workspace.splits.calibration.fingerprint,
        "text": text.fingerprint,
        **{name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in digests.items()},
    }
