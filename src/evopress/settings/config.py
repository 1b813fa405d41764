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

from evopress.core.ggml_types import GGML_TYPES
from evopress.errors import BudgetError, ConfigError, RunError, ScheduleError, SchemaError
from evopress.search.presets import ApplicationName
from evopress.search.stages import validate_schedule
from evopress.settings.called import CALLED
from evopress.settings.sections import (
    BudgetSection,
    Compression,
    DataSection,
    DropSection,
    ExportSection,
    ModelSection,
    PolishSection,
    QuantizeSection,
    SearchSection,
    Section,
)
from evopress.settings.targets import Target, find_target

SCHEMA = 2

TOGETHER: tuple[ApplicationName, ...] = ("bits",)
"""Families that can be searched together with drops."""

FORMER_LEVELS = {"scales": "range", "mismatch": 0.0, "refine": 0}
"""How levels were made by runs whose files do not say it."""


class Config(Section):
    """Everything that decides a run's result."""

    schema_version: int = SCHEMA
    model: ModelSection
    data: DataSection
    compression: Annotated[Compression, Field(discriminator="method")]
    depth: DropSection | None = None
    budget: BudgetSection
    search: SearchSection
    export: ExportSection = ExportSection.model_validate({})
    polish: PolishSection = PolishSection.model_validate({})

    @property
    def sections(self) -> tuple[Compression, ...]:
        """The settings of each family that is searched, in order."""
        return (self.compression,) if self.depth is None else (self.compression, self.depth)

    @property
    def families(self) -> tuple[ApplicationName, ...]:
        """The families that are searched together."""
        return tuple(section.application for section in self.sections)

    @property
    def dropping(self) -> DropSection | None:
        """The settings of what can be dropped, if anything can."""
        return next((section for section in self.sections if isinstance(section, DropSection)), None)

    @property
    def target(self) -> Target | None:
        """What the searched model is for, if that is known."""
        return find_target(self.export.target)

    @property
    def format(self) -> str:
        """The format of the run's own export."""
        return self.target.formats[self.families[0]] if self.target else "hf"

    @model_validator(mode="after")
    def _legal(self) -> Config:
        allowed = CALLED[self.families[0]].counts
        if self.budget.counts not in allowed:
            raise ConfigError(f"the budget counts {self.budget.counts!r}; use {', '.join(allowed)}")
        if self.target:
            for section in self.sections:
                self.target.check(section)
        if self.depth is not None:
            _check_together(self)
        return self

    @model_validator(mode="after")
    def _fits(self) -> Config:
        target = Fraction(self.budget.target)
        if isinstance(self.compression, QuantizeSection):
            _check_bits(self.budget, self.compression, drops=self.depth is not None)
        elif self.budget.counts != "size" and not 0 <= target < 1:
            name = "sparsity" if self.compression.application == "sparsity" else "fraction"
            raise BudgetError(f"the {name} is {self.budget.target}; give a number from 0 to below 1, such as 0.25")
        _check_polish(self.polish, self.compression)
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


def _check_polish(polish: PolishSection, section: Compression) -> None:
    if polish.polish not in ("none", "auto") and (why := nothing_to_learn(section)):
        raise ConfigError(f"--polish {polish.polish} cannot be done: {why}; leave it out")
    if polish.polish == "sweep" and not sweeps(section):
        raise ConfigError(f"--polish sweep cannot be done: {section.method} has no sweep; use blocks or model")
    if polish.rounds > 1 and polish.polish == "none":
        raise ConfigError(f"--rounds {polish.rounds} needs a polish to search on from; give --polish blocks, too")
    if polish.rounds > 1 and section.application == "depth":
        raise ConfigError(
            f"--rounds {polish.rounds} cannot be done: what is healed after a drop fits no other drop; leave it out"
        )


def _check_together(config: Config) -> None:
    """ConfigError for settings that mean nothing where weights have levels and parts can be dropped."""
    assert config.depth is not None
    if config.compression.application not in TOGETHER:
        raise ConfigError(f"drops are searched with {', '.join(TOGETHER)}, not with {config.compression.application}")
    if config.budget.exchange != "any":
        raise ConfigError(f"--exchange {config.budget.exchange} cannot be met: drops and levels trade any with any")
    if config.depth.granularity == "expert":
        raise ConfigError("experts are not dropped beside levels yet; use --granularity sublayer, block or pair")
    if config.target and config.depth.granularity == "sublayer":
        raise ConfigError(
            f"format {config.format} leaves out whole blocks beside levels; use --granularity block or pair"
        )
    if config.polish.rounds > 1:
        raise ConfigError(f"--rounds {config.polish.rounds} cannot be done where parts are dropped; leave it out")


def nothing_to_learn(section: Compression) -> str:
    """Why a polish could change no level of a run in its bytes; empty where it could."""
    if section.method == "ggml" and not any(GGML_TYPES[level].scales for level in section.levels):
        return f"the blocks of {', '.join(section.levels)} have no scale in floating point"
    if getattr(section, "granularity", "") == "expert":
        return "experts that are left are not healed yet"
    return ""


def sweeps(section: Compression) -> bool:
    """Whether levels are made by a sweep with error feedback, which can repair what other inputs do to them."""
    return section.method in ("gptq", "sparsegpt")


def _check_bits(budget: BudgetSection, section: QuantizeSection, drops: bool) -> None:
    """ConfigError or BudgetError for a budget in code bits that no profile of the levels could meet.

    With `drops` any low one can be met; what it takes is known with the model.
    """
    if budget.counts != "bits":
        return
    if section.method == "ggml":
        raise ConfigError("ggml types mix codes and scales; give the budget as bpw, bits as stored")
    low, high = section.levels[0], section.levels[-1]
    if not (drops or int(low) <= Fraction(budget.target)) or not Fraction(budget.target) <= int(high):
        raise BudgetError(f"{budget.target} bits lie outside the levels; give {low} to {high}")


def section_type(name: str, application: ApplicationName) -> type[Section]:
    """The class of the section called `name` in configurations of an application."""
    if name == "compression":
        return CALLED[application].section
    if name == "depth":
        return DropSection
    kind: type[Section] = Config.model_fields[name].annotation  # type: ignore[assignment]
    return kind


def validated(data: Mapping[str, Any]) -> Config:
    """The configuration of these sections; ConfigError names the first wrong setting, its value and the rule."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise ConfigError(said) from None
        name = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "configuration")
        if first["type"] == "missing":
            raise ConfigError(f"{name} is missing") from None
        raise ConfigError(f"--{name.replace('_', '-')} is {first['input']!r}: {said[0].lower()}{said[1:]}") from None


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
    data.get("data", {}).setdefault("bos", "no")  # there was no other
    compression = data.get("compression", {})
    if compression.get("experts") == "each" and "target" in data.get("export", {}):
        compression["experts"] = "auto"  # it was the default, and a target tied more
    if compression.get("method") in ("gptq", "rtn"):
        compression.setdefault("group_size", None)
        for key, value in FORMER_LEVELS.items():
            compression.setdefault(key, value)
    elif compression.get("method") in ("sparsegpt", "wanda", "magnitude"):
        compression.setdefault("mismatch", 0.0)
    search = data.get("search", {})
    if isinstance(tokens := search.get("sensitivity_tokens"), int):  # a number that all rounds share, as it was written
        search["sensitivity_tokens"] = [tokens] * search.pop("sensitivity_rounds", 1)
    try:
        return validated(data)
    except ConfigError as error:
        raise RunError(f"{where} is damaged: {error}") from None


def flat(config: Config) -> dict[str, Any]:
    """All settings as `section.key` -> value."""
    sections = config.model_dump(mode="json", exclude={"schema_version"})
    return {f"{name}.{key}": value for name, section in sections.items() if section for key, value in section.items()}


def differences(old: Config, new: Config) -> list[str]:
    """What differs, one `section.key: old -> new` for each."""
    before, after = flat(old), flat(new)
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]
