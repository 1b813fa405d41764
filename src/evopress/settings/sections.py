"""The sections of a configuration: what can be said about a run, with its defaults, checked as it is read.

Each field is also a flag of the program and its description the flag's help. The three applications of the method
differ in the section `compression` alone.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from evopress.core.ggml_types import ggml_type
from evopress.core.profile import DENSE
from evopress.core.space import Exchange
from evopress.search.presets import ApplicationName, MutationName, StartName
from evopress.search.racing import STANDARD
from evopress.search.stopping import Limits

SENSITIVITY_TOKENS = (512, 4096, 4096)
"""16 sequences: with fewer the knapsack follows noise (docs/log.md)."""


MISMATCH: float = Field(
    0.25, ge=0, le=1, description="how much to correct of what compressed blocks change in the inputs of later ones"
)
"""Of all applications whose levels are made by error feedback."""


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

    source: str = Field(
        description="demo, a .txt, .json, .jsonl or .parquet file, a directory of them, wikitext2, c4, fineweb_edu or "
        "hub:name"
    )
    text_field: str = Field("text", description="where files and hub datasets have their text; else chat messages")
    sequence_length: int = Field(256, ge=2, description="tokens in a sequence")
    bos: Literal["auto", "yes", "no"] = Field("auto", description="begin each with BOS; auto: if the tokenizer does")
    calibration_tokens: int = Field(16384, ge=0, description="tokens for the database's Hessians")
    search_tokens: int = Field(32768, ge=2, description="tokens that the search draws its minibatches from")
    heldout_tokens: int = Field(8192, ge=2, description="tokens for the final scores")
    text_seed: int = Field(0, ge=0, lt=2**32, description="chooses the calibration and search text")


class QuantizeSection(Section):
    """Mixed bit-widths: which levels, and how they are made."""

    application: ClassVar[ApplicationName] = "bits"

    method: Literal["gptq", "rtn", "ggml"] = Field(
        "gptq", description="gptq, rtn: round to nearest, no data, or ggml: llama.cpp's own types"
    )
    levels: tuple[str, ...] = Field(
        ("2", "3", "4", "5", "6", "8"), description="bit-widths; 16: left as it is; for ggml types such as Q4_K,Q6_K"
    )
    group_size: int | None = Field(128, ge=1, description="weights that share a scale; 0 on the command line: a row")
    symmetric: bool = Field(False, description="grids without a zero point")
    scales: Literal["searched", "range"] = Field(
        "searched", description="of least error, or spanning each group's lowest to highest weight"
    )
    act_order: bool = Field(True, description="quantize columns in order of decreasing activation")
    mismatch: float = MISMATCH
    refine: int = Field(1, ge=0, description="rounds of coordinate descent on codes and scales after the sweep")
    damping: float = Field(0.01, gt=0, description="added to the Hessian's diagonal, relative to its mean")
    embeddings: bool = Field(False, description="compress the token embedding and the head too")
    experts: Literal["auto", "each", "matrix", "layer"] = Field(
        "auto",
        description="of a mixture: a level for each expert, for each of a layer's matrices, or for a layer; "
        "auto: for as many as the target can have, each without one",
    )
    database: str | None = Field(None, description="directory of a database to share with other runs")
    propagate: str = Field(
        "auto", description="what later blocks see: dense, or a level; auto: that nearest the budget"
    )

    @field_validator("levels", mode="before")
    @classmethod
    def _names(cls, levels: object) -> object:
        return tuple(map(str, levels)) if isinstance(levels, list | tuple) else levels

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("method") == "ggml":
            for level in levels:
                ggml_type(level.upper())
            return tuple(dict.fromkeys(level.upper() for level in levels))  # of types of one size the first counts
        known = {str(bits) for bits in range(1, 9)}
        if not known & set(levels) or not set(levels) <= known | {DENSE}:
            raise ValueError(f"levels are bit-widths from 1 to 8, and {DENSE} beside them, got {', '.join(levels)}")
        return tuple(sorted(set(levels), key=int))

    @model_validator(mode="after")
    def _propagate(self) -> QuantizeSection:
        known = ["auto", "dense", *self.widths]
        if self.propagate not in known:
            raise ValueError(f"propagate is {self.propagate!r}; use one of {', '.join(known)}")
        return self

    @property
    def widths(self) -> tuple[str, ...]:
        """The levels that are bit-widths of grids; ggml types are none."""
        return () if self.method == "ggml" else tuple(name for name in self.levels if name != DENSE)


class SparsifySection(Section):
    """Non-uniform sparsity: how weights are chosen and removed, and in which steps."""

    application: ClassVar[ApplicationName] = "sparsity"
    embeddings: ClassVar[bool] = False

    method: Literal["sparsegpt", "wanda", "magnitude"] = Field("sparsegpt", description="sparsegpt, wanda or magnitude")
    pattern: str = Field("unstructured", description="unstructured, or N:M such as 2:4: levels are 1:M to M:M kept")
    step: int | None = Field(None, ge=1, description="weights between two levels; default: four levels each way")
    damping: float = Field(0.01, gt=0, description="added to the Hessian's diagonal, relative to its mean")
    database: str | None = Field(None, description="directory of a database to share with other runs")
    propagate: Literal["dense", "uniform"] = Field("dense", description="what later blocks see: dense, or pruned ones")
    mismatch: float = MISMATCH

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        found = re.fullmatch(r"(\d+):(\d+)", pattern)
        if pattern != "unstructured" and not (found and 0 < int(found[1]) < int(found[2])):
            raise ValueError(f"the pattern is {pattern!r}; use unstructured, or N:M with N below M, such as 2:4")
        return pattern

    @property
    def group(self) -> int | None:
        """M of a pattern N:M; None when unstructured."""
        return None if self.pattern == "unstructured" else int(self.pattern.partition(":")[2])


class DropSection(Section):
    """Depth pruning: what is dropped as one."""

    application: ClassVar[ApplicationName] = "depth"
    embeddings: ClassVar[bool] = False

    method: Literal["drop"] = "drop"
    granularity: Literal["sublayer", "block", "pair", "expert"] = Field(
        "sublayer", description="what is dropped as one: sublayer (attention or MLP), block, pair of blocks, or expert"
    )
    protected: tuple[str, ...] = Field((), description="units, sub-layers or blocks that stay, with commas between")


Compression = QuantizeSection | SparsifySection | DropSection


class BudgetSection(Section):
    """The global budget: an average for bits, bytes of files, a share of what is removed for sparsity and depth."""

    target: str = Field(description="a decimal number, exact")
    counts: Literal["bits", "bpw", "size", "weights", "count", "parameters", "bytes"] = Field(
        "bits", description="what the budget counts"
    )
    exchange: Exchange = Field("any", description="what trades: layers of equal size, of equal role, or any")

    @field_validator("target")
    @classmethod
    def _number(cls, target: str) -> str:
        try:
            value = Fraction(target)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"the budget is {target!r}; expected a number such as 3 or 0.25") from None
        decimal = f"{float(value):.12g}"  # one spelling for each number: 3, 3.0 and 6/2 are the same budget
        return decimal if Fraction(decimal) == value else str(value)


class ExportSection(Section):
    """What the searched model is for."""

    target: str | None = Field(
        None, description="what will serve the model: vllm, transformers, llamacpp or mlx; decides what is legal"
    )


class SearchSection(Section):
    """Algorithm 1's settings. The defaults of a preset; see `evopress.search.presets`."""

    preset: str
    strategy: Literal["evolution", "best-of"] = Field("evolution", description="best-of: best of random profiles")
    generations: int | None = Field(
        None, ge=0, description="how often a parent has offspring; default for depth: k (n - k) / 1.5"
    )
    offspring: int = Field(ge=1, description="candidates in a generation")
    survivors: tuple[int, ...] = Field(description="how many each stage keeps, the last 1, such as 8,2,1")
    tokens_per_stage: tuple[int, ...] = Field(description="tokens each stage scores on, such as 256,1024,4096")
    mutation: MutationName = Field(description="equal: the paper's; free, bands, roles, mixed, adaptive: see the docs")
    coarse_generations: int = Field(0, ge=0, description="generations at the start that move whole roles and thirds")
    band_share: float = Field(0.5, ge=0, le=1, description="share of band moves in the mutation 'mixed'")
    preselect: int = Field(
        1, ge=1, description="draw so many times the offspring and score those that a surrogate prefers; 1: score all"
    )
    race: bool = Field(False, description="the last stage goes on in small parts until its winner is clear")
    start: StartName = Field(
        "uniform", description="uniform: the paper's; knapsack: of cheap scores; coarse: then whole roles; sensitivity"
    )
    start_profile: str | None = Field(
        None, description="a profile to start from too, made to fit: profile.json, text, or a file of tensor types"
    )
    start_candidates: int = Field(32, ge=1, description="random profiles to choose a start from")
    start_tokens: int = Field(ge=2, description="tokens that choose between start candidates")
    sensitivity_tokens: tuple[int, ...] = Field(
        SENSITIVITY_TOKENS, min_length=1, description="tokens of each measurement, the next at a better profile"
    )
    time: str | None = Field(None, description="end the search in this time, such as 90s, 30m or 1.5h")
    token_limit: int | None = Field(None, ge=1, description="end the search within this many evaluated tokens")
    patience: int | None = Field(None, ge=1, description="end it after so many generations in a row without a gain")
    automatic: tuple[str, ...] = Field((), description="settings that were left to `auto`")
    fitness: str = Field("kl", description="kl, topk-kl or perplexity")
    seed: int = Field(0, ge=0, lt=2**32, description="decides every random choice")

    @field_validator("time")
    @classmethod
    def _time(cls, time: str | None) -> str | None:
        if time is not None and not re.fullmatch(r"\d+(\.\d+)?[smh]", time):
            raise ValueError(f"the time is {time!r}; give a number and s, m or h, such as 30m")
        return time

    @field_validator("sensitivity_tokens")
    @classmethod
    def _measurable(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if min(tokens) < 2:
            raise ValueError(f"the tokens of a measurement are {min(tokens)}; give 2 or more, such as 512,4096,4096")
        return tokens

    @model_validator(mode="after")
    def _raceable(self) -> SearchSection:
        last = self.tokens_per_stage[-1] if self.tokens_per_stage else 0
        if self.race and 0 < last < 2 * STANDARD.parts:
            raise ValueError(
                f"a race needs {2 * STANDARD.parts} tokens or more in the last stage, which has {last}; give it more, "
                "or leave the race out (--no-race)"
            )
        return self

    @property
    def automatic_text(self) -> str:
        """One line that says what `auto` came to; empty where nothing was left to it or the strategy has no parts."""
        values = ((name, getattr(self, name)) for name in self.automatic)
        said = (f"{name} {'yes' if value is True else 'no' if value is False else value}" for name, value in values)
        return f"auto: {', '.join(said)}" if self.automatic and self.strategy == "evolution" else ""

    @property
    def limits(self) -> Limits:
        """What ends the search before its generations are over."""
        seconds = None if self.time is None else float(self.time[:-1]) * SECONDS[self.time[-1]]
        return Limits(self.token_limit, seconds, self.patience)


SECONDS = {"s": 1, "m": 60, "h": 3600}


class PolishSection(Section):
    """What is learned of the profile that was found, and how."""

    polish: Literal["auto", "none", "sweep", "blocks", "model", "both"] = Field(
        "none",
        description="improve what was found in the same bytes: none, sweep (levels made again), blocks (then learned), "
        "model (learned end to end), both; auto, the quick preset's: blocks if they can learn",
    )
    rounds: int = Field(
        1, ge=1, le=2, description="2: search on from the polished model, polish what that finds, and keep the better"
    )
    polish_uniform: bool = Field(False, description="polish the uniform profile, too, and show both")
    polish_tokens: int = Field(
        32768, ge=2, description="tokens to learn from: calibration and search text, then more of it as far as it goes"
    )
    polish_watched: int = Field(4096, ge=2, description="tokens behind them that are never learned from and decide")
    polish_epochs: int = Field(1, ge=1, description="passes over them for each block")
    polish_batch: int = Field(512, ge=2, description="tokens of one step")
    polish_code_rate: float = Field(0.02, ge=0, le=1, description="largest step between codes")
    polish_scale_rate: float = Field(0.008, ge=0, le=0.5, description="largest step of a scale, relative")
    polish_model_epochs: int = Field(1, ge=1, description="passes over them end to end")
    polish_model_rate: float = Field(0.001, gt=0, le=0.5, description="largest step of a scale there, relative")
