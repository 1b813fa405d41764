"""Figures of analyses and comparisons. Needs the `plot` extra; matplotlib is imported when something is drawn.

Each function draws one result into one file, SVG or PNG by its suffix. Equal results give equal SVG bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from evopress.analysis.landscape import Landscape
from evopress.analysis.monotonicity import ErrorCorrelation
from evopress.analysis.noise import Noise
from evopress.analysis.supersets import Supersets
from evopress.errors import ConfigError, MissingExtra

BLUE, ORANGE, GRAY = "#1f6fb4", "#d9730d", "#8a8a8a"
SUFFIXES = (".svg", ".png")


def draw_errors(found: ErrorCorrelation, path: Path) -> None:
    """Scores over sums of layer errors, one point for each profile."""
    with _figure(path) as axes:
        axes.scatter(found.sums, found.scores, s=14, color=BLUE, alpha=0.7, linewidths=0)
        _scale(axes.set_yscale, found.scores)
        axes.set(xlabel="sum of layer errors", ylabel="score (lower is better)")
        axes.set_title(f"{len(found.sums)} random profiles of one budget, rank correlation {found.spearman:.2f}")


def draw_supersets(found: Supersets, path: Path) -> None:
    """A line for each pair: from the score of the subset to that of the superset."""
    with _figure(path, height=1.6 + 0.32 * max(3, len(found.pairs))) as axes:
        rows = range(len(found.pairs))
        fewer, more = [pair.fewer_score for pair in found.pairs], [pair.more_score for pair in found.pairs]
        axes.hlines(rows, fewer, more, color=GRAY, linewidth=1.5, zorder=1)
        axes.scatter(fewer, rows, s=36, color=ORANGE, label="fewer dropped", zorder=2)
        axes.scatter(more, rows, s=36, color=BLUE, label="more dropped", zorder=2)
        axes.set_yticks(rows, [f"{len(pair.fewer)} in {len(pair.more)}" for pair in found.pairs])
        axes.invert_yaxis()
        _scale(axes.set_xscale, [*fewer, *more])
        axes.set(xlabel="score (lower is better)", ylabel="units dropped")
        axes.set_title(f"More dropped is better in {len(found.better)} of {len(found.pairs)} pairs shown")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def draw_landscape(found: Landscape, path: Path) -> None:
    """The changes of all single switches in order, and rank correlations over distance."""
    with _figure(path, columns=2) as (changes, decay):
        values = [neighbour.change for neighbour in found.neighbours]
        share = [(i + 1) / len(values) for i in range(len(values))]
        changes.step(values, share, where="post", color=BLUE)
        changes.axvline(0, color=GRAY, linewidth=1)
        changes.set(xlabel="change of the score by one switch", ylabel="share of switches", ylim=(0, 1.02))
        changes.set_title(f"{found.better:.0%} of {len(values)} switches improve the score")
        typical = median(map(abs, values))
        if 0 < typical < max(map(abs, values)) / 50:  # a few ruinous switches would squash all others
            changes.set_xscale("symlog", linthresh=typical)
        distances = [at.switches for at in found.distances]
        decay.plot(distances, [at.repeated for at in found.distances], "s--", color=GRAY, label="a second measurement")
        decay.plot(distances, [at.predicted for at in found.distances], "o-", color=BLUE, label="sum of single changes")
        _powers_of_two(decay, distances)
        decay.set(xlabel="switches", ylabel="rank correlation", ylim=(min(0, *decay.get_ylim()) - 0.02, 1.02))
        decay.set_title("What single switches predict")
        decay.legend(frameon=False)


def draw_comparison(result: Mapping[str, Any], path: Path) -> None:
    """A bar for the KL of each profile of a comparison.json, best first, with the perplexity beside it."""
    rows = [(name, row) for name, row in result["profiles"].items() if name != "dense"]
    rows.sort(key=lambda named: named[1]["kl"])
    with _figure(path, height=0.6 + 0.36 * len(rows)) as axes:
        colors = [BLUE if name == "searched" else GRAY for name, _ in rows]
        spread = [row.get("kl_spread", 0.0) for _, row in rows]
        bars = axes.barh([name for name, _ in rows], [row["kl"] for _, row in rows], xerr=spread, color=colors)
        labels = [f"{row['kl']:.3f}   perplexity {row['perplexity']:.1f}" for _, row in rows]
        axes.bar_label(bars, labels, padding=4, size=8)
        axes.invert_yaxis()
        axes.margins(x=0.35)
        axes.set_xlabel(f"KL to the dense model, nats a token ({result['data']['source']}, {result['tokens']} tokens)")


def draw_noise(found: Noise, path: Path) -> None:
    """Rank correlation over tokens; where there is a schedule, also the chance that the best offspring is left."""
    with _figure(path, columns=2 if found.stages else 1) as panels:
        agreement = panels[0] if found.stages else panels
        tokens = [at.tokens for at in found.agreements]
        agreement.fill_between(
            tokens,
            [at.low for at in found.agreements],
            [at.high for at in found.agreements],
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="5 to 95 %",
        )
        agreement.plot(tokens, [at.mean for at in found.agreements], "o-", color=BLUE, label="mean")
        _powers_of_two(agreement, tokens)
        agreement.set(xlabel="tokens", ylabel=f"rank correlation with all {found.tokens}")
        agreement.set_title(f"Order of {found.profiles} profiles")
        agreement.legend(frameon=False, loc="lower right")
        if found.stages:
            _draw_stages(found, panels[1])


def _draw_stages(found: Noise, axes: Any) -> None:
    rows = range(len(found.stages))
    bars = axes.bar(rows, [at.discards for at in found.stages], color=ORANGE, width=0.6)
    axes.bar_label(bars, [f"{at.discards:.0%}" for at in found.stages], padding=2)
    axes.set_xticks(rows, [f"{at.tokens} tokens\nkeeps {at.survivors}" for at in found.stages])
    axes.set(ylabel="chance that the best is discarded", ylim=(0, 1.15 * max(0.1, *bars.datavalues)))
    axes.set_title(f"{found.offspring} offspring: the best is kept in {found.stages[-1].kept:.0%}")


@contextmanager
def _figure(path: Path, columns: int = 1, height: float = 4.0) -> Iterator[Any]:
    """The axes of a figure that is written to `path` at the end; ConfigError for another suffix."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot draw {path.name!r}; give a file that ends in {' or '.join(SUFFIXES)}")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("figures need matplotlib, which is not installed: pip install 'evopress[plot]'") from None
    with matplotlib.rc_context({"svg.hashsalt": "evopress", "svg.fonttype": "none", "axes.titlesize": "medium"}):
        figure = Figure(figsize=(1.0 + 5.2 * columns, height), layout="constrained")
        axes = figure.subplots(1, columns)
        for each in [axes] if columns == 1 else axes:
            each.spines[["top", "right"]].set_visible(False)
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _scale(set_scale: Any, values: Any) -> None:
    """Logarithmic where positive values span more than a decade."""
    if values and min(values) > 0 and max(values) > 10 * min(values):
        set_scale("log")


def _powers_of_two(axes: Any, ticks: list[int]) -> None:
    """A logarithmic axis with every tick at a measured number, thinned out where there are many."""
    if ticks:
        axes.set_xscale("log", base=2)
        step = -(-len(ticks) // 6)
        shown = ticks[::-step][::-1]
        axes.set_xticks(shown, [f"{tick}" for tick in shown])
        axes.minorticks_off()
