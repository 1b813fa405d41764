"""From the few things that a user says to a full configuration: presets, defaults of targets, and what `auto` means.

Everything is decided here, before anything runs, so that a configuration on disk leaves nothing open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from evopress.core.files import parse_size
from evopress.errors import ConfigError
from evopress.search.automatic import resolve_automatic
from evopress.search.presets import COARSE_GENERATIONS, PRESETS, ApplicationName
from evopress.settings.called import CALLED
from evopress.settings.config import TOGETHER, Config, nothing_to_learn, section_type, validated
from evopress.settings.sections import SENSITIVITY_TOKENS, DataSection
from evopress.settings.targets import Target, find_target

UNLIMITED = 1_000_000
"""Generations of a search that a limit of time or tokens ends."""

START_TOKENS = 2048
"""What the paper scores start candidates on."""

PAPER_LEVELS = {
    "levels": ("2", "3", "4", "5", "6"),
    "scales": "range",
    "act_order": False,
    "mismatch": 0.0,
    "refine": 0,
    "propagate": "3",
}
PAPER_DATA: dict[str, int | str] = {
    "sequence_length": 8192,
    "bos": "no",
    "calibration_tokens": 2**23,
    "search_tokens": 524_288,
    "heldout_tokens": 262_144,
}


def resolve(model: str | Path, *, bits: float | str | None = None, bpw: float | str | None = None,
            size: int | str | None = None, sparsity: float | str | None = None, fraction: float | str | None = None,
            application: ApplicationName | None = None, counts: str = "count", preset: str = "quick",
            target: str | None = None, use: Sequence[str] | None = None, **options: Any) -> Config:  # fmt: skip
    """A full configuration from the few things a user says.

    The budget is one of `bits` (code bits a weight), `bpw` (scales and zeros too), `size` (bytes of the exported files
    with weights, such as "100MB"), `sparsity` (share of weights that become zero) and `fraction` (share of the depth
    that is dropped, in what `counts` counts: sub-layers, parameters or bytes); it chooses the `application`, but for a
    size, which is that of quantized files where nothing else is said. `target` is the runtime that the model is for: it
    decides the defaults of the levels, and what is legal. `use` names families that are searched together, such as
    `("bits", "depth")`; one alone is as its `application`. `options` are fields of any section by name
    (`group_size=64`, `generations=20`, `data="text.txt"`); None means "not said". ConfigError (or a child of it) says
    what does not fit.

    >>> resolve("demo", bits=3).compression.group_size
    64
    """
    budgets = {"bits": bits, "bpw": bpw, "size": size and parse_size(size), "sparsity": sparsity, "fraction": fraction}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        text = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
        raise ConfigError(f"give exactly one budget, got {text}; for example bits=3, sparsity=0.5 or fraction=0.25")
    [(name, budget)] = given.items()
    families = known_families(use)
    application = _application(name, families[0] if families else application, target, counts)
    families = families or (application,)
    _require_preset(preset, families)
    said = {key: value for key, value in options.items() if value is not None}
    sections = _preset_values(application, preset)
    sections["model"]["source"] = str(model)
    sections["export"]["target"] = target
    sections["data"]["source"] = str(said.pop("data", "demo" if model == "demo" else "fineweb_edu"))
    runtime = find_target(target)
    stored = "bpw" if runtime and runtime.stored else "bits"
    counted = {"bits": stored, "sparsity": "weights", "fraction": counts}.get(name, name)
    sections["budget"].update(target=str(budget), counts=counted)
    sections["compression"] |= _defaults(str(model), name, application, runtime)
    if said.get("group_size") == 0:
        sections["compression"]["group_size"] = said.pop("group_size") or None
    if len(families) > 1:
        sections["depth"] = {"granularity": "block"} if runtime else {}
    for key, value in said.items():
        _section_of(key, sections, application)[key] = value
    if "propagate" not in said and "3" not in map(str, sections["compression"].get("levels", ())):
        sections["compression"].pop("propagate", None)
    method = CALLED[application].section.model_fields["method"]
    chosen = sections["compression"].setdefault("method", method.default)
    if chosen not in (known := get_args(method.annotation)):
        raise ConfigError(f"--method is {chosen!r}, which does not make {application}; use {', '.join(known)}")
    _resolve_search(sections["search"], said, families, sections["data"])
    return resolve_polish(validated(sections))


def _require_preset(preset: str, families: tuple[ApplicationName, ...]) -> None:
    """ConfigError for one that is not known, or that is not for these families together."""
    known = sorted(PRESETS[families[0]])
    if preset not in known:
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(known)}")
    if len(families) > 1 and preset != "quick":
        raise ConfigError(f"preset {preset} is the paper's, for one family alone; use quick for {','.join(families)}")


def _defaults(model: str, budget: str, application: ApplicationName, runtime: Target | None) -> dict[str, Any]:
    """What the section `compression` has for who says nothing else."""
    found: dict[str, Any] = {"group_size": 64} if model == "demo" and application == "bits" else {}
    if budget == "size" and application == "depth":
        found["granularity"] = "block"  # what every format leaves out
    return found | (runtime.defaults(application) if runtime else {})


def resolve_polish(config: Config, asked: str | None = None, rounds: int | None = None) -> Config:
    """The configuration with what `asked` (a value of --polish) and `rounds` come to; ConfigError if they cannot.

    None is what the configuration says itself.
    """
    found = config.polish.polish if asked is None else asked
    if found == "auto":
        found = "none" if nothing_to_learn(config.compression) else "blocks"
    own = {"polish": found} | ({} if rounds is None else {"rounds": rounds})
    return validated(config.model_dump() | {"polish": config.polish.model_dump() | own})


def known_families(use: Sequence[str] | None) -> tuple[ApplicationName, ...]:
    """The families that are named, in the order in which a configuration has them; none where nothing is said.

    ConfigError for one that is not known, or for some that cannot be searched together.
    """
    names = tuple(dict.fromkeys(use or ()))
    if unknown := [name for name in names if name not in CALLED]:
        raise ConfigError(f"--use names the unknown family {unknown[0]!r}; known: {', '.join(CALLED)}")
    found = tuple(family for family in CALLED if family in names)
    if len(found) > 1 and (found[:-1] != TOGETHER or found[-1] != "depth"):
        raise ConfigError(f"{' and '.join(found)} cannot be searched together; use {','.join((*TOGETHER, 'depth'))}")
    return found


def _application(budget: str, asked: ApplicationName | None, target: str | None, counts: str) -> ApplicationName:
    """What a budget of that name compresses; ConfigError for one that is not of what was `asked`, or cannot be met."""
    own: dict[str, ApplicationName] = {"size": asked or "bits", "sparsity": "sparsity", "fraction": "depth"}
    found = own.get(budget, "bits")
    if asked not in (None, found):
        raise ConfigError(f"a budget in {budget} is one of {found}, not of {asked}")
    if budget == "size" and found == "sparsity":
        raise ConfigError(
            "sparse models are stored dense, zeros and all: no size can be met; give the share of zeros with --sparsity"
        )
    if budget == "size" and target is None:
        raise ConfigError("a size is that of a runtime's files; name the runtime with --target")
    if budget == "size" and counts != "count":
        raise ConfigError(f"counts {counts} says what a fraction is of; leave it out where the budget is a size")
    return found


def _resolve_search(
    search: dict[str, Any], said: Mapping[str, Any], families: Sequence[ApplicationName], data: Mapping[str, Any]
) -> None:
    """Replace what was left to `auto`, and what depends on other settings, by values."""
    search |= resolve_automatic(search, families, _last_stage(search["tokens_per_stage"]))
    if search["start"] == "coarse" and "coarse_generations" not in said:
        search["coarse_generations"] = COARSE_GENERATIONS
    if said.keys() & {"time", "token_limit"} and "generations" not in said:
        search["generations"] = UNLIMITED
    available = data.get("search_tokens", DataSection.model_fields["search_tokens"].default)
    start_tokens = PRESETS[families[0]][search["preset"]].start_tokens or START_TOKENS
    search.setdefault("start_tokens", min(start_tokens, available))
    search.setdefault("sensitivity_tokens", tuple(min(tokens, available) for tokens in SENSITIVITY_TOKENS))


def _last_stage(tokens: Any) -> int:
    """The tokens of the last stage; 0 where they make no sense, which is an error later."""
    return tokens[-1] if isinstance(tokens, (tuple, list)) and tokens and isinstance(tokens[-1], int) else 0


def _preset_values(application: ApplicationName, name: str) -> dict[str, dict[str, Any]]:
    preset = PRESETS[application][name]
    paper = name != "quick"
    search = {
        "preset": name,
        "generations": preset.generations,
        "offspring": preset.offspring,
        "survivors": preset.survivors,
        "tokens_per_stage": preset.tokens,
        "mutation": preset.mutation,
        "band_share": preset.band_share,
        "coarse_generations": preset.coarse_generations,
        "preselect": preset.preselect,
        "race": preset.race,
        "start": preset.start,
        "start_candidates": preset.start_candidates,
    }
    data = dict(PAPER_DATA) if paper else {}
    compression = dict(PAPER_LEVELS) if paper and application == "bits" else {}
    budget = {"exchange": preset.exchange}
    polish = {} if paper else {"polish": "auto"}
    other: dict[str, dict[str, Any]] = {"model": {}, "export": {}, "polish": polish}
    return other | {"data": data, "compression": compression, "budget": budget, "search": search}


def _section_of(key: str, sections: dict[str, dict[str, Any]], application: ApplicationName) -> dict[str, Any]:
    fields = {name: section_type(name, application).model_fields for name in sections}
    for name, section in sections.items():
        if key in fields[name]:
            return section
    known = sorted(field for own in fields.values() for field in own)
    raise ConfigError(f"unknown option {key!r}; known: {', '.join(known)}")
