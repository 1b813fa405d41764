"""Does the search scale as Theorem 3.1 says? Generations to the optimum against k(n-k)/offspring, on toy functions.

The theorem: for a linear fitness over n units with two levels, of which k must be compressed, the expected number of
generations until the optimum is O(k(n-k)/offspring). Here every unit has a random weight, the start is a random
profile, and generations are counted until the known optimum is the parent; no model is involved, so this takes about
a minute on one core. Two things bend the line where it is short: a generation is the least there can be, and at most
min(k, n-k) switches are needed however many offspring try.

    PYTHONPATH=src python benchmarks/theorem_3_1.py [--seeds N]

writes benchmarks/results/theorem-3-1.md and docs/figures/theorem-3-1.svg, and fails when the measurements contradict
the theorem.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import make_space
from evopress.search import Evolution, Schedule, Stage
from evopress.search.starts.drawn import random_start

ROOT = Path(__file__).resolve().parents[1]
CASES = [(n, k) for n in (8, 16, 32, 64) for k in (n // 8, n // 4, n // 2)]
OFFSPRING = (1, 4, 16)
SEEDS = 20  # of each case
CONSTANT = 3.0
"""One of d wrong pairs is found by an offspring with probability 5/9 * d^2 / (k(n-k)); 9/5 * sum(1/d^2) = 2.96."""


@dataclass(frozen=True)
class Row:
    """One case: mean and standard error of the number of generations over the seeds."""

    n: int
    k: int
    offspring: int
    generations: float
    error: float

    @property
    def predicted(self) -> float:
        """The theorem's k(n-k)/offspring."""
        return self.k * (self.n - self.k) / self.offspring


def generations_to_optimum(n: int, k: int, offspring: int, seed: int) -> int:
    """Run one search from a random start until its parent is the optimum of a random linear function."""
    rng = Random(seed)
    units = [Unit(f"u{i}", i, "u", 1, (Level("compressed", 0), Level("kept", 1))) for i in range(n)]
    space = make_space(units, average=f"{n - k}/{n}", exchange="any")
    weight = {unit.name: rng.random() for unit in units}

    def score(profile: Profile) -> float:
        return sum(weight[name] for name, level in profile.items() if level == "compressed")

    lightest = sorted(weight, key=weight.__getitem__)[:k]
    optimum = Profile.of({name: "compressed" if name in lightest else "kept" for name in space.names})
    start = [space.decode(random_start(space, rng))]
    search = Evolution(space, rng, Schedule(generations=10**9, offspring=offspring, stages=[Stage(1, 1)]), start=start)
    generation = 0
    while search.best != optimum:
        batch = search.ask()
        assert batch is not None
        search.tell([score(profile) for profile in batch.profiles])
        generation = batch.generation
    return generation


def measure(cases: Sequence[tuple[int, int]], offspring: Sequence[int], seeds: int) -> list[Row]:
    """All combinations of (n, k) and offspring."""
    rows = []
    for n, k in cases:
        for number in offspring:
            counts = [generations_to_optimum(n, k, number, seed) for seed in range(seeds)]
            error = statistics.stdev(counts) / math.sqrt(seeds)
            rows.append(Row(n, k, number, statistics.mean(counts), error))
    return rows


def slope(rows: Sequence[Row]) -> float:
    """The exponent p of generations ~ predicted^p, where more than a few generations are predicted."""
    long = [row for row in rows if row.predicted >= 4]
    return statistics.linear_regression(
        [math.log(row.predicted) for row in long], [math.log(max(row.generations, 1.0)) for row in long]
    ).slope


def correlation(rows: Sequence[Row]) -> float:
    """Pearson's correlation of generations with the prediction."""
    return statistics.correlation([row.predicted for row in rows], [row.generations for row in rows])


def check(rows: Sequence[Row]) -> None:
    """Fail when the measurements contradict the theorem: the bound, the correlation, or the exponent."""
    for row in rows:
        bound = CONSTANT * row.predicted + min(row.k, row.n - row.k)
        assert row.generations - 3 * row.error <= bound, f"{row} is above the bound of {bound:.1f}"
    assert correlation(rows) > 0.95, f"correlation {correlation(rows):.3f}"
    assert slope(rows) < 1.15, f"exponent {slope(rows):.3f}: generations grow faster than k(n-k)/offspring"


def table(rows: Sequence[Row], seeds: int) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Generations to the optimum (Theorem 3.1)",
        "",
        f"Linear functions with random weights, two levels, random starts, mean and standard error of {seeds} seeds.",
        "Made by `python benchmarks/theorem_3_1.py`; deterministic, independent of the machine.",
        "",
        f"Correlation with k(n-k)/offspring: {correlation(rows):.3f}. Exponent where at least 4 are predicted: "
        f"{slope(rows):.2f} (the theorem: 1 in the limit; a small k starts near its optimum).",
        "The ratio levels off near 3, as one of d wrong pairs is found with probability 5/9 d^2/(k(n-k)).",
        "",
        "| n | k | offspring | k(n-k)/offspring | generations | ratio |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.n} | {row.k} | {row.offspring} | {row.predicted:.1f} | {row.generations:.1f} ± {row.error:.1f} "
            f"| {row.generations / row.predicted:.2f} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Generations over the prediction, both logarithmic, one marker for each number of offspring."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "evopress", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, marker in zip(OFFSPRING, "os^", strict=True):
        own = [row for row in rows if row.offspring == number]
        axes.errorbar(
            [row.predicted for row in own],
            [max(row.generations, 0.5) for row in own],
            yerr=[row.error for row in own],
            fmt=marker,
            label=f"{number} offspring",
        )
    ends = [min(row.predicted for row in rows), max(row.predicted for row in rows)]
    axes.plot(ends, [CONSTANT * end for end in ends], "k--", linewidth=1, label=f"{CONSTANT:g} k(n-k)/offspring")
    axes.set(xscale="log", yscale="log", xlabel="k(n-k)/offspring", ylabel="generations to the optimum")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure, write, and only then check, so that a failure can be looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--most", type=int, default=max(n for n, _ in CASES), help="units of the largest case")
    options = parser.parse_args()
    rows = measure([case for case in CASES if case[0] <= options.most], OFFSPRING, options.seeds)
    result = ROOT / "benchmarks" / "results" / "theorem-3-1.md"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(table(rows, options.seeds))
    plot(rows, ROOT / "docs" / "figures" / "theorem-3-1.svg")
    print(table(rows, options.seeds), end="")
    check(rows)


if __name__ == "__main__":
    main()
