"""Draws what each part of the search does, on a toy landscape where the truth is known: the figures of docs/method.md.

    PYTHONPATH=src python benchmarks/parts_figures.py            # docs/figures/part-*.svg, seconds; needs matplotlib

The toy is the interacting one of 210 units of benchmarks/toy_landscapes.py, with predictions that correlate 0.75 with
the truth; every number comes from the parts themselves, run with fixed seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from random import Random
from typing import Any

import matplotlib
import numpy as np
import toy_landscapes as toys

from evopress.search import equal_switches, run_search
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves
from evopress.search.racing import Race, Track, student
from evopress.search.stopping import Limits, Stopper
from evopress.search.types import BatchResult

matplotlib.use("Agg")
matplotlib.rcParams.update({"svg.hashsalt": "evopress", "svg.fonttype": "none", "font.size": 9})
from matplotlib import pyplot  # noqa: E402

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
BLUE, RED, GREEN, GRAY, GOLD = "#1f6f8b", "#c0562b", "#6a8d3f", "#9aa5ab", "#c9a227"
SEED, TOKENS = 0, 300_000
"""And the tokens of a search."""
CAUTIONS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)


def start(toy: toys.Toy, predicted: toys.Array, tokens: int) -> Any:
    """Predicted and true score of the best profile of the sum, for growing caution."""
    first = toy.truth(np.full(len(predicted), toys.UNIFORM))
    every, expected, true = np.arange(len(predicted)), [], []
    for caution in CAUTIONS:
        levels = np.array(toys.additive_best(toy.space, predicted, caution))
        expected.append(1 + float(predicted[every, levels].sum()) / first)
        true.append(toy.truth(levels) / first)
    figure, axes = _axes("caution: what harms counts so many times", "score, uniform = 1")
    axes.plot(CAUTIONS, expected, "o--", color=GRAY, label="as the sum promises")
    axes.plot(CAUTIONS, true, "o-", color=BLUE, label="as measured on the whole")
    axes.axhline(1.0, color=RED, lw=0.8, label="uniform")
    return _finished(figure, axes)


def moves(toy: toys.Toy, predicted: toys.Array, tokens: int) -> Any:
    """How often each kind of move is drawn, generation by generation."""
    mutate = AdaptiveMoves(default_moves(equal_switches))
    search = toys.search_of(toy, toys.Method(), predicted, SEED)
    search._mutate, search._learners = mutate, [mutate]
    shares: list[dict[str, float]] = [mutate.shares()]

    def watch(seen: BatchResult) -> None:
        if seen.accepted is not None:
            shares.append(mutate.shares())

    run_search(search, toy.evaluator(SEED), on_batch=watch, stopper=Stopper(Limits(tokens=tokens)))
    figure, axes = _axes("generation", "share of the offspring")
    names = list(shares[0])
    axes.stackplot(
        range(len(shares)),
        [[share[name] for share in shares] for name in names],
        labels=names,
        colors=[BLUE, GOLD, GREEN, RED],
        alpha=0.85,
    )
    axes.margins(0)
    return _finished(figure, axes)


def preselect(toy: toys.Toy, predicted: toys.Array, tokens: int) -> Any:
    """Predicted and true change of a pool of offspring, and which of them are scored."""
    search = toys.search_of(toy, toys.METHODS["preselect"], predicted, SEED)
    run_search(search, toy.evaluator(SEED), stopper=Stopper(Limits(tokens=tokens)))
    assert search._preselect is not None
    parent = toy.space.encode(search.best)
    pool = search._distinct_children(equal_switches, parent, toys.OFFSPRING * toys.POOL)
    kept = set(search._preselect.keep(parent, pool, toys.OFFSPRING))
    means, _ = search._preselect.surrogate.predict_all(parent, pool)
    now = toy.truth(np.array(parent))
    true = [100 * (toy.truth(np.array(child)) - now) / now for child in pool]
    figure, axes = _axes("predicted change of the score, %", "true change, %")
    for chosen, color, label in ((False, GRAY, "not scored"), (True, BLUE, "scored")):
        own = [i for i, child in enumerate(pool) if (child in kept) == chosen]
        axes.scatter([100 * means[i] / now for i in own], [true[i] for i in own], s=9, color=color, label=label, lw=0)
    axes.axhline(0, color=RED, lw=0.8)
    return _finished(figure, axes)


def race(toy: toys.Toy, predicted: toys.Array, tokens: int) -> Any:
    """Mean paired differences of three children and their parent, part by part."""
    rng, rules = Random(5), Race()
    parent = toy.space.encode(toy.space.uniform())
    children = [child for child in (equal_switches(toy.space, parent, rng) for _ in range(60)) if child is not None]
    children.sort(key=lambda child: toy.truth(np.array(child)))
    runners = [parent, children[0], children[20], children[50]]
    evaluate, track = toy.evaluator(SEED), Track(rules, 3)
    while not track.over:
        scores = evaluate([toy.space.decode(runners[i]) for i in track.running], rules.tokens(toys.STAGES[-1].tokens))
        track.add(scores)
    figure, axes = _axes("part of the last stage", "child − parent, mean so far")
    for number, color in zip(range(1, 4), (BLUE, GREEN, GOLD), strict=True):
        gaps = [a - b for a, b in zip(track.scores[number], track.scores[0], strict=False)]
        steps = range(2, len(gaps) + 1)
        means = [statistics.fmean(gaps[:n]) for n in steps]
        error = [student(rules.clear, n - 1) * statistics.stdev(gaps[:n]) / n**0.5 for n in steps]
        label = "wins" if track.winner == number else "stops" if number not in track.running else "does not win"
        axes.plot(steps, means, "o-", ms=3, color=color, label=f"child {number}, {len(gaps)} parts: {label}")
        low, high = zip(*((m - e, m + e) for m, e in zip(means, error, strict=True)), strict=True)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
    axes.axhline(0, color=RED, lw=0.8)
    axes.set_xticks(range(2, rules.parts + 1))
    return _finished(figure, axes)


def courses(toy: toys.Toy, predicted: toys.Array, tokens: int) -> Any:
    """What is closed of the gap between uniform and the best known, over all tokens."""
    best = toys.best_known(toy)
    figure, axes = _axes("thousands of tokens", "closed of the gap, %")
    shown = {"paper": RED, "race": GOLD, "start": GRAY, "preselect": GREEN, "start + preselect + race": BLUE}
    for name, color in shown.items():
        course = toys.run(toy, best, toys.METHODS[name], predicted, tokens, SEED)
        spent, closed = [t / 1000 for t in course.tokens], [100 * c for c in course.closed]
        axes.step(spent, closed, where="post", color=color, label=name)
    return _finished(figure, axes)


def _axes(x: str, y: str) -> Any:
    figure, axes = pyplot.subplots(figsize=(5.6, 3.0), layout="constrained")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finished(figure: Any, axes: Any) -> Any:
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Write every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a search")
    options = parser.parse_args()
    toy = toys.make_toy(210, interacting=True, seed=SEED)
    predicted = toys.predictions(toy, 0.75, SEED)
    for draw in (start, moves, preselect, race, courses):
        path = FIGURES / f"part-{draw.__name__}.svg"
        figure = draw(toy, predicted, options.tokens)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
