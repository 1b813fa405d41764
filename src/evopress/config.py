"""One validated configuration for a run, and its form on disk.

A configuration is resolved (presets and automatic values replaced by numbers) before anything runs, written to
`config.toml`, and compared when a run goes on, so a directory never mixes two experiments.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evopress.errors import BudgetError, ConfigError, RunError, ScheduleError, SchemaError
from evopress.search.presets import PRESETS, MutationName
from evopress.search.stages import validate_schedule
from evopress.space import Exchange

if TYPE_CHECKING:
    from evopress.compress.grid import Grid

SCHEMA = 1
START_TOKENS = 2048
"""What the paper scores start candidates on."""
SENSITIVITY_TOKENS = 4096
"""As many passes of a whole model as one or two generations of the quick preset take."""


class Section(BaseModel):
    """Base of all sections: frozen, keyword-only, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(Section):
    """Which model, and how it is held in memory."""

    source: str = Field(description="directory, hub id, .gguf file, or demo")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: bf16 where it is fast")
    device: str = Field("auto", description="auto: cuda if there is one, else cpu")
    revision: str | None = Field(None, description="git revision of a hub model")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


class DataSection(Section):
    """Which text, and how much of it for what."""

    source: str = Field(description="demo, a .txt, .jsonl or .parquet file, wikitext2, c4, fineweb_edu or hub:name")
    sequence_length: int = Field(256, ge=2, description="tokens in a sequence")
    calibration_tokens: int = Field(16384, ge=0, description="tokens for the database's Hessians")
    search_tokens: int = Field(32768, ge=2, description="tokens that the search draws its minibatches from")
    heldout_tokens: int = Field(8192, ge=2, description="tokens for the final scores")
    text_seed: int = Field(0, description="chooses the calibration and search text")


class DatabaseSection(Section):
    """Which levels, and how they are made."""

    method: Literal["gptq", "rtn"] = Field("gptq", description="gptq, or rtn: round to nearest, no data")
    levels: tuple[int, ...] = Field((2, 3, 4, 5, 6, 8), description="bit-widths")
    group_size: int | None = Field(128, ge=1, description="weights that share a scale; 0 on the command line: a row")
    symmetric: bool = Field(False, description="grids without a zero point")
    act_order: bool = Field(False, description="quantize columns in order of decreasing activation")
    damping: float = Field(0.01, gt=0, description="added to the Hessian's diagonal, relative to its mean")
    database: str | None = Field(None, description="directory of a database to share with other runs")
    propagate: str = Field("auto", description="what later blocks see: dense, or a level; auto: 3, or the lowest")

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or any(not 1 <= bits <= 8 for bits in levels):
            raise ValueError(f"levels are bit-widths from 1 to 8, got {list(levels)}")
        return tuple(sorted(set(levels)))

    @model_validator(mode="after")
    def _propagate(self) -> DatabaseSection:
        known = ["auto", "dense", *map(str, self.levels)]
        if self.propagate not in known:
            raise ValueError(f"propagate is {self.propagate!r}; use one of {', '.join(known)}")
        return self

    def grids(self) -> dict[str, Grid]:
        """Level name -> grid."""
        from evopress.compress.grid import Grid  # here, so that reading a configuration loads no torch

        return {str(bits): Grid(bits, self.group_size, self.symmetric) for bits in self.levels}


class BudgetSection(Section):
    """The global budget, in bits for each weight of the compressed layers."""

    average: str = Field(description="a decimal number, exact")
    counts: Literal["bits", "bpw"] = Field("bits", description="bits: codes only; bpw: scales and zeros too")
    exchange: Exchange = Field("any", description="size: only layers of equal size trade; any: all do")

    @field_validator("average")
    @classmethod
    def _number(cls, average: str) -> str:
        try:
            value = Fraction(average)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"the budget is {average!r}; expected a number such as 3 or 2.25") from None
        if value <= 0:
            raise ValueError(f"the budget is {average}; it must be above 0")
        decimal = f"{float(value):.12g}"  # one spelling for each number: 3, 3.0 and 6/2 are the same budget
        return decimal if Fraction(decimal) == value else str(value)


class SearchSection(Section):
    """Algorithm 1's settings. The defaults of a preset; see `evopress.search.presets`."""

    preset: str
    strategy: Literal["evolution", "best-of"] = Field("evolution", description="best-of: best of random profiles")
    generations: int = Field(ge=0, description="how often a parent has offspring")
    offspring: int = Field(ge=1, description="candidates in a generation")
    survivors: tuple[int, ...] = Field(description="how many each stage keeps, the last 1, such as 8,2,1")
    tokens_per_stage: tuple[int, ...] = Field(description="tokens each stage scores on, such as 256,1024,4096")
    mutation: MutationName = Field(description="equal: the paper's; free, bands, roles, mixed: see the docs")
    coarse_generations: int = Field(0, ge=0, description="generations at the start that move whole roles")
    band_share: float = Field(0.5, ge=0, le=1, description="share of band moves in the mutation 'mixed'")
    start: Literal["paper", "best", "sensitivity"] = Field(
        "best", description="paper: its own; best: of uniform, dp and random; sensitivity: measured ones too"
    )
    start_candidates: int = Field(32, ge=1, description="random profiles to choose a start from")
    start_tokens: int = Field(ge=2, description="tokens that choose between start candidates")
    sensitivity_tokens: int = Field(
        SENSITIVITY_TOKENS, ge=2, description="tokens that the sensitivities are measured on"
    )
    fitness: str = Field("kl", description="kl, topk-kl or perplexity")
    seed: int = Field(0, description="decides every random choice")


class Config(Section):
    """Everything that decides a run's result."""

    schema_version: int = SCHEMA
    model: ModelSection
    data: DataSection
    database: DatabaseSection
    budget: BudgetSection
    search: SearchSection

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.budget.counts == "bits":
            low, high = self.database.levels[0], self.database.levels[-1]
            if not low <= Fraction(self.budget.average) <= high:
                raise BudgetError(f"{self.budget.average} bits lie outside the levels; give {low} to {high}")
        search = self.search
        asked = {"start-tokens": search.start_tokens}
        if search.start == "sensitivity":
            asked["sensitivity-tokens"] = search.sensitivity_tokens
        for name, tokens in asked.items():
            if tokens > self.data.search_tokens:
                raise ScheduleError(f"{name} {tokens} exceed the {self.data.search_tokens} search tokens")
        validate_schedule(
            search.offspring,
            search.survivors,
            search.tokens_per_stage,
            self.data.search_tokens,
            generations=search.generations,
        )
        return self


PAPER_DATA = {"sequence_length": 8192, "calibration_tokens": 2**23, "search_tokens": 524_288, "heldout_tokens": 262_144}


def resolve(model: str, *, bits: float | str | None = None, bpw: float | str | None = None, preset: str = "quick",
            **options: Any) -> Config:  # fmt: skip
    """A full configuration from the few things a user says.

    `options` are fields of any section by name (`group_size=64`, `generations=20`, `data="text.txt"`); None means "not
    said". ConfigError (or a child of it) says what does not fit.

    >>> resolve("demo", bits=3).database.group_size
    64
    """
    if (bits is None) == (bpw is None):
        raise ConfigError(f"give exactly one budget: bits={bits} and bpw={bpw}; for example bits=3")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(sorted(PRESETS))}")
    said = {key: value for key, value in options.items() if value is not None}
    sections = _preset_values(preset)
    sections["model"]["source"] = model
    sections["data"]["source"] = said.pop("data", "demo" if model == "demo" else "fineweb_edu")
    sections["budget"].update(average=str(bits if bits is not None else bpw), counts="bits" if bpw is None else "bpw")
    if model == "demo":
        sections["database"]["group_size"] = 64
    if said.get("group_size") == 0:
        sections["database"]["group_size"] = said.pop("group_size") or None
    for key, value in said.items():
        _section_of(key, sections)[key] = value
    available = sections["data"].get("search_tokens", DataSection.model_fields["search_tokens"].default)
    sections["search"].setdefault("start_tokens", min(START_TOKENS, available))
    sections["search"].setdefault("sensitivity_tokens", min(SENSITIVITY_TOKENS, available))
    return _validated(sections)


def _preset_values(name: str) -> dict[str, dict[str, Any]]:
    preset = PRESETS[name]
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
        "start": "paper" if paper else "sensitivity",
        "start_candidates": preset.start_candidates,
    }
    data = dict(PAPER_DATA) if paper else {}
    levels = {"levels": (2, 3, 4, 5, 6)} if paper else {}
    return {"model": {}, "data": data, "database": levels, "budget": {"exchange": preset.exchange}, "search": search}


def _section_of(key: str, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    for name, section in sections.items():
        if key in Config.model_fields[name].annotation.model_fields:  # type: ignore[union-attr]
            return section
    known = sorted(
        field
        for name in sections
        for field in Config.model_fields[name].annotation.model_fields  # type: ignore[union-attr]
    )
    raise ConfigError(f"unknown option {key!r}; known: {', '.join(known)}")


def _validated(data: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "configuration"
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
    if "group_size" not in data.get("database", {}):
        data.setdefault("database", {})["group_size"] = None
    return _validated(data)


def flat(config: Config) -> dict[str, Any]:
    """All settings as `section.key` -> value."""
    sections = config.model_dump(mode="json", exclude={"schema_version"})
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def differences(old: Config, new: Config) -> list[str]:
    """What differs, one `section.key: old -> new` for each."""
    before, after = flat(old), flat(new)
    return [f"{key}: {value} -> {after[key]}" for key, value in before.items() if after[key] != value]
