"""One validated configuration for a run, and its form on disk.

A configuration is resolved (presets and automatic values replaced by numbers) before anything runs, written to
`config.toml`, and compared when a run goes on, so a directory never mixes two experiments.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from evopress.errors import BudgetError, ConfigError, RunError, ScheduleError, SchemaError
from evopress.files import parse_size
from evopress.search.automatic import resolve_automatic
from evopress.search.presets import COARSE_GENERATIONS, PRESETS, ApplicationName
from evopress.search.stages import validate_schedule
from evopress.sections import (
    SENSITIVITY_TOKENS,
    BudgetSection,
    Compression,
    DataSection,
    DropSection,
    ExportSection,
    ModelSection,
    QuantizeSection,
    SearchSection,
    Section,
    SparsifySection,
)
from evopress.targets import Target, find_target

SCHEMA = 2

COMPRESSION: dict[ApplicationName, type[Section]] = {
    "bits": QuantizeSection,
    "sparsity": SparsifySection,
    "depth": DropSection,
}
"""The section of each application."""

COUNTS: dict[ApplicationName, tuple[str, ...]] = {
    "bits": ("bits", "bpw", "size"),
    "sparsity": ("weights",),
    "depth": ("count", "parameters", "bytes", "size"),
}
"""What the budget of an application can count."""


class Config(Section):
    """Everything that decides a run's result."""

    schema_version: int = SCHEMA
    model: ModelSection
    data: DataSection
    compression: Annotated[Compression, Field(discriminator="method")]
    budget: BudgetSection
    search: SearchSection
    export: ExportSection = ExportSection.model_validate({})

    @property
    def target(self) -> Target | None:
        """What the searched model is for, if that is known."""
        return find_target(self.export.target)

    @property
    def format(self) -> str:
        """The format of the run's own export."""
        return self.target.formats[self.compression.application] if self.target else "hf"

    @model_validator(mode="after")
    def _fits(self) -> Config:
        allowed = COUNTS[self.compression.application]
        if self.budget.counts not in allowed:
            raise ConfigError(f"the budget counts {self.budget.counts!r}; use {', '.join(allowed)}")
        target = Fraction(self.budget.target)
        if self.target:
            self.target.check(self.compression)
        if isinstance(self.compression, QuantizeSection):
            _check_bits(self.budget, self.compression)
        elif self.budget.counts != "size" and not 0 <= target < 1:
            name = "sparsity" if self.compression.application == "sparsity" else "fraction"
            raise BudgetError(f"the {name} is {self.budget.target}; give a number from 0 to below 1, such as 0.25")
        search = self.search
        asked = {"start-tokens": search.start_tokens}
        if search.start == "sensitivity":
            asked["sensitivity-tokens"] = max(search.sensitivity_tokens)
        for name, tokens in asked.items():
            if tokens > self.data.search_tokens:
                raise ScheduleError(f"{name} {tokens} exceed the {self.data.search_tokens} search tokens")
        validate_schedule(
            search.offspring,
            search.survivors,
            search.tokens_per_stage,
            self.data.search_tokens,
            generations=search.generations or 0,
        )
        return self


def _check_bits(budget: BudgetSection, section: QuantizeSection) -> None:
    """ConfigError or BudgetError for a budget in code bits that no profile of the levels could meet."""
    if budget.counts != "bits":
        return
    if section.method == "ggml":
        raise ConfigError("ggml types mix codes and scales; give the budget as bpw, bits as stored")
    low, high = section.levels[0], section.levels[-1]
    if not int(low) <= Fraction(budget.target) <= int(high):
        raise BudgetError(f"{budget.target} bits lie outside the levels; give {low} to {high}")


UNLIMITED = 1_000_000
"""Generations of a search that a limit of time or tokens ends."""

START_TOKENS = 2048
"""What the paper scores start candidates on."""

PAPER_DATA = {"sequence_length": 8192, "calibration_tokens": 2**23, "search_tokens": 524_288, "heldout_tokens": 262_144}


def resolve(model: str, *, bits: float | str | None = None, bpw: float | str | None = None,
            size: int | str | None = None, sparsity: float | str | None = None, fraction: float | str | None = None,
            application: ApplicationName | None = None, counts: str = "count", preset: str = "quick",
            target: str | None = None, **options: Any) -> Config:  # fmt: skip
    """A full configuration from the few things a user says.

    The budget is one of `bits` (code bits a weight), `bpw` (scales and zeros too), `size` (bytes of the exported files
    with weights, such as "100MB"), `sparsity` (share of weights that become zero) and `fraction` (share of the depth
    that is dropped, in what `counts` counts: sub-layers, parameters or bytes); it chooses the `application`, but for a
    size, which is that of quantized files where nothing else is said. `target` is the runtime that the model is for: it
    decides the defaults of the levels, and what is legal. `options` are fields of any section by name (`group_size=64`,
    `generations=20`, `data="text.txt"`); None means "not said". ConfigError (or a child of it) says what does not fit.

    >>> resolve("demo", bits=3).compression.group_size
    64
    """
    budgets = {"bits": bits, "bpw": bpw, "size": size and parse_size(size), "sparsity": sparsity, "fraction": fraction}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        text = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
        raise ConfigError(f"give exactly one budget, got {text}; for example bits=3, sparsity=0.5 or fraction=0.25")
    [(name, budget)] = given.items()
    application = _application(name, application, target, counts)
    if preset not in PRESETS[application]:
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(sorted(PRESETS[application]))}")
    said = {key: value for key, value in options.items() if value is not None}
    sections = _preset_values(application, preset)
    sections["model"]["source"] = model
    sections["export"]["target"] = target
    sections["data"]["source"] = said.pop("data", "demo" if model == "demo" else "fineweb_edu")
    runtime = find_target(target)
    stored = "bpw" if runtime and runtime.stored else "bits"
    counted = {"bits": stored, "sparsity": "weights", "fraction": counts}.get(name, name)
    sections["budget"].update(target=str(budget), counts=counted)
    if model == "demo" and application == "bits":
        sections["compression"]["group_size"] = 64
    if said.get("group_size") == 0:
        sections["compression"]["group_size"] = said.pop("group_size") or None
    if name == "size" and application == "depth":
        sections["compression"]["granularity"] = "block"  # what every format leaves out
    if runtime:
        sections["compression"].update(runtime.defaults(application))
    for key, value in said.items():
        _section_of(key, sections, application)[key] = value
    if "method" not in sections["compression"]:
        sections["compression"]["method"] = COMPRESSION[application].model_fields["method"].default
    _resolve_search(sections["search"], said, application, sections["data"])
    return _validated(sections)


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
    search: dict[str, Any], said: Mapping[str, Any], application: ApplicationName, data: Mapping[str, Any]
) -> None:
    """Replace what was left to `auto`, and what depends on other settings, by values."""
    search |= resolve_automatic(search, application, _last_stage(search["tokens_per_stage"]))
    if search["start"] == "coarse" and "coarse_generations" not in said:
        search["coarse_generations"] = COARSE_GENERATIONS
    if said.keys() & {"time", "token_limit"} and "generations" not in said:
        search["generations"] = UNLIMITED
    available = data.get("search_tokens", DataSection.model_fields["search_tokens"].default)
    start_tokens = PRESETS[application][search["preset"]].start_tokens or START_TOKENS
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
    compression = {"levels": ("2", "3", "4", "5", "6")} if paper and application == "bits" else {}
    budget = {"exchange": preset.exchange}
    other: dict[str, dict[str, Any]] = {"model": {}, "export": {}}
    return other | {"data": data, "compression": compression, "budget": budget, "search": search}


def _section_of(key: str, sections: dict[str, dict[str, Any]], application: ApplicationName) -> dict[str, Any]:
    fields = {name: section_type(name, application).model_fields for name in sections}
    for name, section in sections.items():
        if key in fields[name]:
            return section
    known = sorted(field for own in fields.values() for field in own)
    raise ConfigError(f"unknown option {key!r}; known: {', '.join(known)}")


def section_type(name: str, application: ApplicationName) -> type[Section]:
    """The class of the section called `name` in configurations of an application."""
    if name == "compression":
        return COMPRESSION[application]
    kind: type[Section] = Config.model_fields[name].annotation  # type: ignore[assignment]
    return kind


def _validated(data: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != first.get("tag")) or "configuration"
        raise ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def to_toml(config: Config) -> str:
    """The configuration as TOML; unset values are left out."""
    data = config.model_dump(mode="json", exclude_none=True)
    lines = [f"schema_version = {data.pop('schema_version')}"]
    for name, section in data.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def from_toml(text: str, where: str) -> Config:
    """Read what `to_toml` wrote; `where` names the file in errors. SchemaError when a newer evopress wrote it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{where} is damaged: {error}") from None
    schema = data.get("schema_version", SCHEMA)
    if schema > SCHEMA:
        raise SchemaError(f"{where} has schema {schema}, this evopress reads up to {SCHEMA}; update evopress")
    if schema < SCHEMA:
        raise SchemaError(f"{where} has the old schema {schema}, this evopress reads {SCHEMA}; start a new run")
    compression = data.get("compression", {})
    if compression.get("method") in ("gptq", "rtn"):
        compression.setdefault("group_size", None)
    search = data.get("search", {})
    if isinstance(tokens := search.get("sensitivity_tokens"), int):  # a number that all rounds share, as it was written
        search["sensitivity_tokens"] = [tokens] * search.pop("sensitivity_rounds", 1)
    return _validated(data)


def flat(config: Config) -> dict[str, Any]:
    """All settings as `section.key` -> value."""
    sections = config.model_dump(mode="json", exclude={"schema_version"})
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def differences(old: Config, new: Config) -> list[str]:
    """What differs, one `section.key: old -> new` for each."""
    before, after = flat(old), flat(new)
    return [f"{key}: {value} -> {after[key]}" for key, value in before.items() if after[key] != value]
