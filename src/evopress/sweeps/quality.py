"""The smallest model that is as good as one asks for: a budget is what comes out, not what goes in.

    DIR/quality.toml   DIR/database/   DIR/4/  DIR/3/  DIR/3.5/  ...   DIR/quality.json   DIR/report.html

Budgets in bits, an eighth of a bit apart, are bisected: a budget is met where the upper end of the 95 % interval of the
held-out score is at most the goal. Each probe is a run like any other, on one database, and its search starts from the
result of the nearest budget that was probed before. From 2 to 6 bits that is five or six searches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from evopress.core.files import write_text
from evopress.core.ggml_types import ggml_storage_bits
from evopress.core.profile import nearest_level
from evopress.errors import BudgetError, ConfigError
from evopress.pipeline import Run, run_all
from evopress.report import write_front, write_report
from evopress.run.directory import locked, read_run
from evopress.run.observer import Observer
from evopress.run.records import read_json
from evopress.run.wording import budget_text, final
from evopress.settings.config import Config
from evopress.settings.resolve import resolve
from evopress.settings.sections import Compression, QuantizeSection
from evopress.sweeps.front import record, require_same_or_empty

FILE = "quality.toml"
STEP = Fraction(1, 8)  # bits between neighbouring budgets
BUDGET = ("bits", "bpw", "size")


@dataclass(frozen=True)
class Goal:
    """What the result may be at most: a KL, or a perplexity as a multiple of the dense model's."""

    measure: Literal["kl", "perplexity"]
    most: float

    def reached(self, evaluation: Mapping[str, Any]) -> float:
        """The upper end of the 95 % interval of what a run came to, as evaluation.json has it."""
        uncertainty = evaluation["uncertainty"]
        if self.measure == "kl":
            return float(uncertainty["intervals"][final(evaluation["profiles"])]["kl"][1])
        return float(uncertainty["against"]["dense"]["perplexity"]["interval"][1])

    def text(self, probe: Probe) -> str:
        """How far a probe is from it, in words."""
        if self.measure == "kl":
            return f"KL {probe.kl:.4f}, at most {probe.reached:.4f}, asked {self.most:g}"
        return f"perplexity at most x{probe.reached:.4f} of the dense model's, asked x{self.most:g}"


@dataclass(frozen=True)
class Probe:
    """One budget that was searched: the upper end of what it `reached`, and what it is on held-out text."""

    target: str
    reached: float
    meets: bool
    kl: float
    perplexity: float
    bytes: int
    tokens: int


def parse_goal(kl: float | str | None, perplexity: str | None) -> Goal:
    """The goal of `--kl 0.05` or `--perplexity +2%`; ConfigError for both, and for what is neither.

    >>> parse_goal(None, "+2%")
    Goal(measure='perplexity', most=1.02)
    """
    if (kl is None) == (perplexity is None):
        raise ConfigError(f"a goal is either a KL or a perplexity; got --kl {kl} and --perplexity {perplexity}")
    if perplexity is not None:
        found = re.fullmatch(r"\+?(\d+(?:\.\d+)?)%", perplexity.strip())
        if not found:
            raise ConfigError(f"--perplexity is {perplexity!r}; give what it may rise by, such as +2%")
        return Goal("perplexity", float(1 + Fraction(found.group(1)) / 100))
    try:
        most = float(str(kl))
    except ValueError:
        most = -1.0
    if not 0 < most < float("inf"):
        raise ConfigError(f"--kl is {kl!r}; give the largest KL to the dense model that will do, such as 0.05")
    return Goal("kl", most)


def smallest(
    model: str,
    *,
    out: str | Path,
    kl: float | str | None = None,
    perplexity: str | None = None,
    observer: Observer | None = None,
    track: Sequence[str] = (),
    **options: Any,
) -> Run:
    """The smallest quantized model whose held-out KL, or rise of perplexity, is at most the goal, with its checkpoint.

    `options` are those of `evopress.quantize` but for the budget. Called again, it goes on where it stopped. Raises
    ConfigError for what is no goal, BudgetError where the largest levels do not meet it, RunMismatch when `out` was
    made for another goal or with other settings.

    >>> smallest("demo", kl=0.1, out="runs/good").directory.path.name  # doctest: +SKIP
    '4.375'
    """
    return find_smallest(model, Path(out), parse_goal(kl, perplexity), observer or Observer(), track, **options)


def find_smallest(
    model: str, out: Path, goal: Goal, observer: Observer, track: Sequence[str] = (), **options: Any
) -> Run:
    """`smallest` for a parsed goal."""
    out = out.resolve()  # runs go on from other directories too
    configs = plan_probes(model, out, options)
    wanted = record("goal", f"{goal.measure} {goal.most:g}", configs[0])
    require_same_or_empty(out, FILE, wanted)
    probes: dict[int, Probe] = {}

    def meets(place: int) -> bool:
        config, number = configs[place], len(probes) + 1
        observer.note(f"probe {number}: {budget_text(config)}")
        if probes:
            start = configs[min(probes, key=lambda known: (abs(known - place), -known))].budget.target
            search = config.search.model_copy(update={"start_profile": str(out / start / "profile.json")})
            config = config.model_copy(update={"search": search})
        run = run_all(config, out / config.budget.target, observer, checkpoint=False, track=track)
        probes[place] = probe = probed(run, goal)
        observer.note(f"probe {number}: {budget_text(config)}: {goal.text(probe)}")
        return probe.meets

    with locked(out):
        write_text(out / FILE, wanted)
        place = bisect(len(configs), meets)
        if place == len(configs):
            best = f"{budget_text(configs[-1])}: {goal.text(probes[place - 1])}"
            raise BudgetError(f"no budget meets the goal, {best}; ask for less, or give larger --levels")
        return _answer(out, goal, probes, place, observer, track)


def plan_probes(model: str, out: Path, options: Mapping[str, Any]) -> list[Config]:
    """A configuration for every budget, the smallest first, all with the database of the budget in the middle."""
    if given := [name for name in BUDGET if options.get(name) is not None]:
        raise ConfigError(f"--{given[0]} is a budget, and a goal asks for the least that will do; give one of both")
    options = {name: value for name, value in options.items() if name not in BUDGET}
    section = resolve(model, use=("bits",), bpw=4, **options).compression
    counted, targets = budgets(section)
    if section.method == "gptq" and section.propagate == "auto":
        levels = {level: int(level) for level in section.widths}
        options["propagate"] = nearest_level(levels, Fraction(targets[len(targets) // 2]))
    options["database"] = options.get("database") or str(out / "database")
    return [resolve(model, use=("bits",), **options | {counted: target}) for target in targets]


def budgets(section: Compression) -> tuple[str, list[str]]:
    """`bits` or `bpw`, whichever the levels are counted in, and the budgets from the least level to the largest."""
    assert isinstance(section, QuantizeSection)
    ggml = section.method == "ggml"
    sizes = [Fraction(ggml_storage_bits((1, 256), name), 256) if ggml else Fraction(name) for name in section.levels]
    first, last = -(min(sizes) // -STEP), max(sizes) // STEP
    return "bpw" if ggml else "bits", [f"{float(place * STEP):g}" for place in range(first, last + 1)]


def probed(run: Run, goal: Goal) -> Probe:
    """What a finished run came to."""
    evaluation, found = run.evaluation, read_json(run.directory.profile, "search")
    row, reached = evaluation["profiles"][final(evaluation["profiles"])], goal.reached(evaluation)
    return Probe(
        target=run.directory.config.budget.target,
        reached=reached,
        meets=reached <= goal.most,
        kl=row["kl"],
        perplexity=row["perplexity"],
        bytes=row["bytes"],
        tokens=found["fitness"]["tokens"],
    )


def _answer(
    out: Path, goal: Goal, probes: Mapping[int, Probe], place: int, observer: Observer, track: Sequence[str]
) -> Run:
    """The checkpoint of the answer, and the files that show how it was found."""
    run = run_all(read_run(out / probes[place].target).config, out / probes[place].target, observer, track=track)
    listed = [asdict(probes[known]) for known in sorted(probes)]
    found = {"goal": asdict(goal), "answer": probes[place].target, "probes": listed}
    write_text(out / "quality.json", json.dumps(found, indent=1) + "\n")
    paths = [out / probe.target for probe in probes.values()]
    write_front(paths, out / "pareto.svg")
    write_report(paths, out / "report.html")
    text, smaller = f"{budget_text(run.directory.config)} will do: {goal.text(probes[place])}", probes.get(place - 1)
    spent = sum(probe.tokens for probe in probes.values())
    less = "it is the least there is" if smaller is None else f"{smaller.target} would have {goal.text(smaller)}"
    observer.note(f"{text}; {less} ({len(probes)} probes, {spent:,} tokens evaluated)")
    return run


def bisect(count: int, meets: Callable[[int], bool]) -> int:
    """The first of `count` places that meets a goal if all behind it do; `count` where the last does not.

    Asks about log2(count) times, and always for the place before the answer.

    >>> bisect(10, lambda place: place >= 7)
    7
    """
    below, above = -1, count
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if meets(middle) else (middle, above)
    return above
