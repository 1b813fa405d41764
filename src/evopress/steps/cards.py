"""What the model card of an export says, gathered from a run: `evopress.formats.card` writes it.

Nothing in it depends on where the run lies or when it was made, so an export made again has the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evopress.core.files import size
from evopress.core.profile import Profile, Unit
from evopress.database.methods import Method
from evopress.formats.about import About
from evopress.formats.card import Card, Grid, Table
from evopress.report.commands import reproduce
from evopress.run.records import polish_record, read_json, versions
from evopress.run.wording import COLUMNS, after_bos, budget_text, place
from evopress.settings.called import did, tags
from evopress.settings.config import Config
from evopress.settings.sections import PolishSection, SparsifySection
from evopress.steps.workspace import Workspace

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def make_card(workspace: Workspace, format: str, about: About, profile: Profile, directory: str, weights: int) -> Card:
    """The card of a profile's export in a format to a directory of that name, whose weights take so many bytes.

    Scores are in it where the profile is the run's own and was evaluated.
    """
    config, run = workspace.config, workspace.run
    name = Path(DEMO_MODEL if config.model.source == "demo" else config.model.source).name
    searched = run.profile.exists() and dict(read_json(run.profile, "search")["profile"]) == dict(profile.items())
    return Card(
        title=f"{name}, {budget_text(config)}",
        summary=f"`{name}`, compressed with evopress. {did(config.families)}, so that the model's "
        "answers change least under one budget.",
        metadata=_base_model(config) | {"library_name": about.library, "pipeline_tag": "text-generation"},
        tags=(*tags(config.families), format, *about.tags),
        grid=make_grid(workspace, profile),
        facts=_facts(workspace, profile, weights, searched),
        reproduce=reproduce(config, "run"),
        serve=[(what, command.replace("DIRECTORY", directory)) for what, command in about.serve],
        scores=_scores(run.evaluation) if searched and run.evaluation.exists() else None,
        notes=about.notes,
    )


def make_grid(workspace: Workspace, profile: Profile) -> Grid:
    """The levels by role and block, in words that can be read without the run."""
    levels, units = dict(profile.items()), [part for unit in workspace.space.units for part in unit.parts]
    shown = {unit.name: _shown(workspace, unit, levels[unit.name]) for unit in units}
    costs = {_shown(workspace, unit, level.name): level.cost / unit.size for unit in units for level in unit.levels}
    inside = [unit for unit in units if place(unit.name)[0] is not None]
    blocks = list(dict.fromkeys(map(_block, inside)))
    rows: dict[str, list[str]] = {place(unit.name)[1]: [""] * len(blocks) for unit in inside}
    for unit in inside:
        rows[place(unit.name)[1]][blocks.index(_block(unit))] = shown[unit.name]
    used = set(shown.values())
    return Grid(
        tuple(blocks),
        {role: tuple(row) for role, row in rows.items()},
        tuple(level for level in sorted(costs, key=lambda level: (costs[level], level)) if level in used),
        {unit.name: shown[unit.name] for unit in units if unit not in inside},
    )


def _shown(workspace: Workspace, unit: Unit, level: str) -> str:
    """A level's name, or its sparsity where the name is only a distance from the average."""
    section = workspace.config.compression
    if not isinstance(section, SparsifySection) or section.group is not None:
        return level
    entry = workspace.database.manifest.units[unit.name]
    return f"{entry.level(level).zeros / entry.size:.1%}"


def _block(unit: Unit) -> str:
    """The number of a unit's block in its name, or those of its pair."""
    return next(part for part in unit.name.split(".") if part.partition("-")[0].isdigit())


def _base_model(config: Config) -> dict[str, str]:
    """The hub's name of what was compressed; nothing for local files."""
    source = config.model.source
    if source == "demo":
        return {"base_model": DEMO_MODEL}
    return {} if Path(source).exists() else {"base_model": source}


def _facts(workspace: Workspace, profile: Profile, weights: int, searched: bool) -> dict[str, str]:
    config = workspace.config
    sizes = {key: value for key, value in workspace.sizes(profile).items() if key != "bytes"}
    reached = ", ".join(f"{COLUMNS[key][0]} {COLUMNS[key][1](value)}" for key, value in sizes.items())
    data = read_json(workspace.run.profile, "search") if searched else {}
    return {
        "Budget": budget_text(config),
        "Reached": f"{reached}; the weights take {weights:,} bytes ({size(weights)})",
        "Method": ", ".join(f"{key} {_plain(value)}" for key, value in config.compression if value not in (None, ())),
        "Calibration": _calibration(config, workspace.family.method, workspace.bos),
        "Search": _search(config, data) if searched else "none; the profile was given",
        "Polish": _polish(workspace, profile),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _calibration(config: Config, method: Method | None, bos: int | None) -> str:
    if method is None or not method.needs_text:
        return "needs no text"
    data = config.data
    text = f"{data.calibration_tokens:,} tokens of {Path(data.source).name} in sequences of {data.sequence_length}"
    return text + (", each after BOS" if bos is not None else "")


def _search(config: Config, data: Mapping[str, Any]) -> str:
    search, fitness = config.search, data["fitness"]
    rounds = "" if data.get("rounds", 1) == 1 else ", the second round, on the polished model of a first one"
    return (
        f"{search.strategy}, preset {search.preset}, seed {search.seed}, {fitness['tokens']:,} tokens evaluated by "
        f"{fitness['name']} on text from {Path(config.data.source).name}{rounds}"
    )


def _polish(workspace: Workspace, profile: Profile) -> str:
    """How the levels were learned, if they were."""
    record = polish_record(workspace.run)
    if record is None or record.result is None or record.profile != dict(profile.items()):
        return "none"
    known = [key for key in PolishSection.model_fields if key in record.settings]
    settings = ", ".join(f"{key.removeprefix('polish_')} {record.settings[key]}" for key in known)
    before, after = record.watched["unpolished"], min(record.watched.values())
    return f"{settings}; KL on the watched part of the search text {before:.4g} before, {after:.4g} after"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _scores(file: Path) -> Table:
    """The rows of evaluation.json and on which text, without sizes: they may be those of other files."""
    evaluation = read_json(file, "evaluate")
    rows = evaluation["profiles"]
    keys = [key for key in COLUMNS if key != "bytes" and any(key in row for row in rows.values())]
    data = evaluation["data"]
    text = f"{evaluation['tokens']:,} tokens of {Path(data['source']).name}{after_bos(data)}"
    return Table(
        (f"held-out: {text}", *(COLUMNS[key][0] for key in keys)),
        tuple((name, *(COLUMNS[key][1](row[key]) if key in row else "" for key in keys)) for name, row in rows.items()),
    )
