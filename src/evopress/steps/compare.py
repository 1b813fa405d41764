"""The searched profile beside every baseline that applies, each searched on the same text and scored on the same text.

Each baseline has a journal and a result in `compare/` of the run directory, so an interrupted comparison goes on and a
finished one costs nothing but the evaluation. What a baseline will cost is said before it starts.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from evopress.core.files import write_text
from evopress.core.profile import Profile
from evopress.errors import EvopressError
from evopress.run.records import read_json, read_profile, seconds_of
from evopress.search import Journal, Limits, Stopper, run_search
from evopress.search.types import Strategy
from evopress.settings.config import flat
from evopress.steps.scoring import HeldOut, score
from evopress.steps.strategies import make_strategy, warm_up
from evopress.steps.workspace import Workspace


@dataclass(frozen=True)
class Entry:
    """One strategy to run: with `seed`, by what `make` makes, and how many tokens it had before it begins."""

    name: str
    seed: int
    make: Callable[[], tuple[Strategy, int]]


@dataclass(frozen=True)
class Found:
    """A profile that a strategy found; `tokens` were evaluated for it, in `seconds`."""

    profile: Profile
    tokens: int
    seconds: float


def compare(
    workspace: Workspace, *, seeds: int = 1, data: str | None = None, tokens: int | None = None, brute: bool = False
) -> dict[str, Any]:
    """Score the searched profile and all baselines on held-out text (or `data`); returns what comparison.json holds.

    With several `seeds` the search and the baselines that draw at random run once with each; their row is the mean, and
    `kl_spread` the standard deviation. `brute` tries all profiles, if they are few. `skipped` says which baselines did
    not apply, and why.
    """
    started = time.monotonic()
    found = {"searched": finished(workspace)}
    skipped: dict[str, str] = {}
    for entry in entries(workspace, seeds, brute):
        try:
            found[entry.name] = find(workspace, entry, _speed(found.values()))
        except EvopressError as error:
            skipped[entry.name] = str(error)
            workspace.observer.note(f"{entry.name} skipped: {error}")
    result = _evaluate(workspace, found, data, tokens) | {
        "skipped": skipped,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(workspace.run.comparison, json.dumps(result, indent=1) + "\n")
    return result


def entries(workspace: Workspace, seeds: int = 1, brute: bool = False) -> Iterator[Entry]:
    """All baselines, and with further seeds, under name/1, name/2, ..., what draws at random."""
    for offset in range(seeds):
        seed, mark = workspace.config.search.seed + offset, f"/{offset}" if offset else ""
        for name, make in workspace.family.baselines(random.Random(seed), workspace.config.search, brute).items():
            if not offset or name in RANDOM:
                yield Entry(name + mark, seed, lambda make=make: (make(), 0))  # type: ignore[misc]
        if offset:
            yield Entry("searched" + mark, seed, lambda seed=seed: _searched(workspace, seed))  # type: ignore[misc]


def _searched(workspace: Workspace, seed: int) -> tuple[Strategy, int]:
    """The run's own search with another seed."""
    warmup = warm_up(workspace, seed)
    return make_strategy(workspace, warmup, seed), warmup.tokens


def _speed(found: Iterable[Found]) -> float | None:
    """Tokens a second of the searches so far."""
    timed = [one for one in found if one.seconds]
    return sum(one.tokens for one in timed) / sum(one.seconds for one in timed) if timed else None


RANDOM = ("best-of",)
"""Baselines whose result depends on the seed."""


def find(workspace: Workspace, entry: Entry, speed: float | None = None) -> Found:
    """Run a strategy to its end, or take its result from an earlier comparison of this run.

    With `speed`, in tokens a second, the time it will take is said first.
    """
    config, text, name = workspace.config, workspace.splits.search, entry.name
    stem = workspace.run.path / "compare" / name.replace("/", "-seed")
    if stem.with_suffix(".json").exists():
        data = read_json(stem.with_suffix(".json"), "compare")
        return Found(Profile.of(data["profile"]), data["tokens"], data["seconds"])
    stem.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    strategy, tokens = entry.make()
    effort = getattr(strategy, "effort", None)
    limits = config.search.limits if name.partition("/")[0] == "searched" else Limits()
    stopper = Stopper(limits, tokens=tokens, seconds=time.monotonic() - started)
    workspace.observer.note(f"{name}: {effort.text(speed)}" if effort else name)
    header = flat(config) | workspace.fingerprints | {"search text": text.fingerprint, "strategy": name}
    measures = (workspace.measure,)
    with (
        Journal(stem.with_suffix(".jsonl"), seed=entry.seed, fingerprint=header) as journal,
        workspace.evaluator(text, measures, effort.profiles if effort else config.search.offspring) as evaluator,
    ):
        evaluator.seed, evaluator.calls = entry.seed, journal.batches
        evaluator.progress = lambda done, total: workspace.observer.progress("compare", done, total, name)
        profile = run_search(strategy, evaluator, journal, stopper=stopper)
    found = Found(profile, stopper.tokens, round(time.monotonic() - started, 1))
    record = {"profile": dict(profile.items()), "tokens": found.tokens, "seconds": found.seconds}
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    return found


def finished(workspace: Workspace) -> Found:
    """The result of the run's own search, which has ended."""
    run, tokens = workspace.run, read_json(workspace.run.profile, "search")["fitness"]["tokens"]
    return Found(read_profile(run.profile), tokens, seconds_of(run.timing, "search"))


def _evaluate(workspace: Workspace, found: dict[str, Found], data: str | None, tokens: int | None) -> dict[str, Any]:
    """Scores of dense and of all found profiles on one text, seeds of one strategy taken together."""
    profiles: dict[str, Profile | None] = {"dense": None} | {name: one.profile for name, one in found.items()}
    scored = score(workspace, profiles, HeldOut(data, tokens))
    single = scored.rows
    for name, one in found.items():
        single[name] |= {"search_tokens": one.tokens, "search_seconds": one.seconds}
    rows: dict[str, Any] = {}
    for name in single:
        strategy, _, seed = name.partition("/")
        if not seed:
            rows[strategy] = _together([row for other, row in single.items() if other.partition("/")[0] == strategy])
    return scored.record() | {"profiles": rows}


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number, and of the KL the standard deviation too."""
    if len(rows) == 1:
        return rows[0]
    mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    return mean | {"kl_spread": statistics.stdev(row["kl"] for row in rows), "seeds": len(rows)}
