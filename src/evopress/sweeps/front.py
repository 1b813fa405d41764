"""Several budgets of one model, each search started from its neighbour's result: the front of size against quality.

    DIR/sweep.toml   DIR/database/   DIR/4/  DIR/3.5/  ...   DIR/sweep.json   DIR/pareto.svg   DIR/report.html

Every directory is a run like any other. The most generous budget is searched first: its result, made to fit the next
smaller budget, is among the profiles that the next search chooses its start from. N:M patterns share one database, and
so do budgets in bits for which later blocks see the same level, `database-3/`; each other target builds its own, those
of unstructured sparsity in the run's directory, as their levels are counted from the target. No run exports:
`evopress export DIR/3` writes the checkpoint that was chosen.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from evopress.core.files import write_text
from evopress.core.profile import nearest_level
from evopress.errors import ConfigError, RunError, RunMismatch
from evopress.pipeline import Run, run_all
from evopress.report import dominates, write_front, write_report
from evopress.run.directory import locked
from evopress.run.observer import Observer
from evopress.run.wording import final
from evopress.settings.config import Config, differences, from_toml, to_toml
from evopress.settings.resolve import resolve
from evopress.settings.sections import DropSection, QuantizeSection, SparsifySection

TARGETS = ("bits", "bpw", "sparsity", "fraction")
"""The budgets that can be swept; the last two say what is removed, so the smallest is the most generous."""

FILE = "sweep.toml"


def sweep(
    model: str,
    *,
    out: str | Path,
    observer: Observer | None = None,
    track: Sequence[str] = (),
    preset: str = "quick",
    **options: Any,
) -> list[Run]:
    """Search one budget after the other; returns the runs, the largest model first.

    Exactly one of `bits`, `bpw`, `sparsity` and `fraction` is a list of targets; the other `options` are those of
    `evopress.quantize`, `sparsify` and `drop`. Called again, it goes on where it stopped; RunMismatch when `out` is a
    sweep of other targets or settings.

    >>> runs = sweep("demo", bits=(2.5, 3, 4), out="runs/sweep")  # doctest: +SKIP
    """
    configs = plan(model, Path(out), preset=preset, **options)
    return run_sweep(configs, Path(out), observer or Observer(), track)


def plan(model: str, out: Path, **options: Any) -> list[Config]:
    """The configuration of each run, in the order of the searches; ConfigError when there are no targets to sweep."""
    given = [name for name in TARGETS if options.get(name) is not None]
    if len(given) != 1:
        raise ConfigError(f"a sweep is over exactly one of {', '.join(TARGETS)}; got {' and '.join(given) or 'none'}")
    [name] = given
    targets = _ordered(options.pop(name), name)
    configs: list[Config] = []
    for target in targets:
        config = resolve(model, **options | {name: target})
        configs.append(_placed(config, out, configs[-1] if configs else None))
    return configs


def run_sweep(configs: Sequence[Config], out: Path, observer: Observer, track: Sequence[str] = ()) -> list[Run]:
    """The runs of `plan`, those of them that are not finished, and the files that show them together."""
    require_same_or_empty(out, FILE, _record(configs))
    with locked(out):
        write_text(out / FILE, _record(configs))
        runs = []
        for number, config in enumerate(configs, start=1):
            observer.note(f"target {config.budget.target}, {number} of {len(configs)}")
            runs.append(run_all(config, out / config.budget.target, observer, checkpoint=False, track=track))
        write_text(out / "sweep.json", json.dumps(table(runs), indent=1) + "\n")
        paths = [run.directory.path for run in runs]
        write_front(paths, out / "pareto.svg")
        write_report(paths, out / "report.html")
    return runs


def table(runs: Sequence[Run]) -> dict[str, Any]:
    """What sweep.json holds: for each target the rows of its evaluation.json, and whether a smaller run is as good."""
    rows = [(run.directory.config.budget.target, run.directory.path.name, run.evaluation) for run in runs]
    found = [evaluation["profiles"][final(evaluation["profiles"])] for _, _, evaluation in rows]
    points = [(row["bytes"], row["kl"]) for row in found]
    targets = [
        {
            "target": target,
            "directory": name,
            "front": not any(dominates(other, point) for other in points),
            "profiles": evaluation["profiles"],
        }
        for (target, name, evaluation), point in zip(rows, points, strict=True)
    ]
    return {"targets": targets, "data": rows[0][2]["data"]}


def _ordered(targets: Sequence[float | str] | float | str, name: str) -> list[str]:
    """The targets without repetitions, the most generous first; ConfigError when one is no number."""
    listed = [targets] if isinstance(targets, (str, int, float)) else list(targets)
    try:
        numbers = {Fraction(str(target)): str(target) for target in listed}
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"the targets are {listed}; expected numbers such as 2.5,3,4") from None
    if len(numbers) < 2:
        raise ConfigError(f"a sweep needs at least two different targets, got {listed}; give some such as 2.5,3,4")
    return [numbers[number] for number in sorted(numbers, reverse=name in ("bits", "bpw"))]


def _placed(config: Config, out: Path, before: Config | None) -> Config:
    """A configuration with the sweep's database, where there is one, and with its neighbour as the start."""
    compression, search = config.compression, config.search
    out = out.resolve()  # runs are used, and sweeps go on, from other directories too
    own = isinstance(compression, SparsifySection) and compression.group is None
    if not isinstance(compression, DropSection) and not own and compression.database is None:
        compression = compression.model_copy(update={"database": str(out / _database(config))})
    if before is not None:
        search = search.model_copy(update={"start_profile": str(out / before.budget.target / "profile.json")})
    return config.model_copy(update={"compression": compression, "search": search})


def _database(config: Config) -> str:
    """The name of a target's database: levels that are made for a budget are shared by those that they suit alike."""
    compression, target = config.compression, config.budget.target
    if not isinstance(compression, QuantizeSection) or compression.method != "gptq" or compression.propagate != "auto":
        return "database"
    if config.budget.counts != "bits":
        return f"database-{target}"
    return f"database-{nearest_level({level: int(level) for level in compression.widths}, Fraction(target))}"


def _record(configs: Sequence[Config]) -> str:
    """What sweep.toml holds: all targets, and the first run's configuration."""
    return record("targets", [config.budget.target for config in configs], configs[0])


def record(what: str, asked: Any, config: Config) -> str:
    """What is `asked` for, as a line that begins with its name, and a configuration."""
    return f"{what} = {json.dumps(asked)}\n{to_toml(config)}"


def require_same_or_empty(out: Path, file: str, wanted: str) -> None:
    """RunError when `out` holds something else, RunMismatch when its `file` is a `record` of something else."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; give a directory for the runs")
    if not out.is_dir() or not any(entry.name != ".lock" for entry in out.iterdir()):
        return
    if not (out / file).exists():
        raise RunError(f"{out} is not empty and holds none of these runs; give a new or empty directory")
    what, before, existing = _read((out / file).read_text(encoding="utf-8"), file)
    _, asked, config = _read(wanted, file)
    changed = differences(existing, config)
    if before != asked:
        changed.insert(0, f"{what}: {_plain(before)} -> {_plain(asked)}")
    if changed:
        raise RunMismatch(f"{out} was made with other settings ({'; '.join(changed)}); use another directory")


def _read(text: str, name: str) -> tuple[str, Any, Config]:
    head, _, rest = text.partition("\n")
    [(what, asked)] = tomllib.loads(head).items()
    return what, asked, from_toml(rest, name)


def _plain(asked: Any) -> str:
    return ",".join(asked) if isinstance(asked, list) else str(asked)
