"""The tables and the figure of benchmarks/efficiency.py, made from its lines alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

LEVELS = (30_000, 60_000, 100_000, 150_000, 200_000, 300_000, 400_000, 600_000, 800_000, 2_000_000, 5_000_000)
"""Tokens at which methods are compared."""

ALGORITHM_1 = ("paper", "super-fast preset", "paper preset")
"""The methods that are Algorithm 1 to the letter; a file of lines has one of them for each task and seed."""


def report(rows: Sequence[Row]) -> str:
    """For each task: KL at equal tokens, tokens until the KL that Algorithm 1 ends with, and the checks."""
    return "\n".join(_task(task, [row for row in rows if row["task"] == task]) for task in _unique(rows, "task"))


def kl_at(row: Row, tokens: float) -> float | None:
    """The held-out KL of the parent after that many tokens; None before the first parent and beyond the end."""
    if tokens > 1.05 * row["total"]:
        return None
    known = [point["kl"] for point in row["curve"] if point["tokens"] <= tokens]
    return known[-1] if known else None


def tokens_until(row: Row, kl: float) -> float | None:
    """Tokens until a parent was at least that good and the curve stayed there; None if that never was."""
    found = None
    for point in row["curve"]:
        if point["kl"] > kl:
            found = None
        elif found is None:
            found = point["tokens"]
    return found


def _task(task: str, rows: Sequence[Row]) -> str:
    names = list(rows[0]["names"])
    lines = [f"## {task}", ""]
    references = (f"{name} {statistics.mean(row['references'][i] for row in rows):.4f}" for i, name in enumerate(names))
    lines += [f"Held-out KL of the references: {', '.join(references)}.", ""]
    lines += [*_equal_tokens(rows), "", *_until(rows), "", *_checks(rows)]
    return "\n".join(lines) + "\n"


def _equal_tokens(rows: Sequence[Row]) -> list[str]:
    """A row a method, a column for each number of tokens; mean over the seeds and, of several, the spread."""
    ends = [level for level in LEVELS if any(kl_at(row, level) is not None for row in rows)]
    lines = [
        "| method | seeds | " + " | ".join(f"{level / 1000:.0f}k" for level in ends) + " | end | tokens |",
        "|---|--:|" + "--:|" * (len(ends) + 2),
    ]
    for method in _unique(rows, "method"):
        own = [row for row in rows if row["method"] == method]
        cells = [_spread([kl_at(row, level) for row in own]) for level in ends]
        cells += [_spread([row["curve"][-1]["kl"] for row in own]), f"{statistics.mean(r['total'] for r in own):,.0f}"]
        lines.append(f"| {method} | {len(own)} | " + " | ".join(cells) + " |")
    return lines


def _until(rows: Sequence[Row]) -> list[str]:
    """Tokens until the KL that Algorithm 1 of the same seed ends with."""
    lines = ["| seed | KL of Algorithm 1 at its end | its tokens until then | tokens of auto | part |"]
    lines.append("|--:|--:|--:|--:|--:|")
    pairs = {row["seed"]: row for row in rows if row["method"] in ALGORITHM_1}
    for row in (row for row in rows if row["method"] == "auto" and row["seed"] in pairs):
        paper = pairs[row["seed"]]
        target = paper["curve"][-1]["kl"]
        theirs, ours = tokens_until(paper, target), tokens_until(row, target)
        part = f"{ours / paper['total']:.2f}" if ours else "-"
        shown = f"{ours:,.0f}" if ours else f"more than {row['total']:,.0f}"
        lines.append(f"| {row['seed']} | {target:.4f} | {theirs:,.0f} | {shown} | {part} |")
    return lines


def _checks(rows: Iterable[Row]) -> list[str]:
    """Whether each run ended at least as good as every reference."""
    lines = []
    for row in rows:
        end = row["curve"][-1]["kl"]
        beaten = [n for n, kl in zip(row["names"], row["references"], strict=True) if end > kl]
        said = f"WORSE than {', '.join(beaten)}" if beaten else f"not worse than {', '.join(row['names'])}"
        lines.append(f"* {row['method']}, seed {row['seed']}, {row['tokens']:,} tokens: {end:.4f}, {said}")
    return lines


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return ""
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.4f}"


def _unique(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


COLORS = ("#1f6f8b", "#c0562b", "#6a8d3f", "#8a5a9c", "#c9a227", "#4d4d4d")


def draw(rows: Sequence[Row], path: Path) -> None:
    """The curves of all runs, a panel for each task, two in a row, and a colour for each method; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "evopress", "svg.fonttype": "none"})
    from matplotlib import pyplot

    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    columns = min(2, len(by_task))
    lines = -(-len(by_task) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(4.2 * columns + 0.6, 3.2 * lines), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(by_task) :]:
        axes.set_visible(False)
    for axes, (task, own) in zip(panels.flat, by_task.items(), strict=False):
        colors = dict(zip(_unique(own, "method"), COLORS * 2, strict=False))
        for row in own:
            tokens, kl = zip(*((point["tokens"] / 1000, point["kl"]) for point in row["curve"]), strict=True)
            axes.step([*tokens, row["total"] / 1000], [*kl, kl[-1]], where="post", color=colors[row["method"]], lw=1.4)
        for method, color in colors.items():
            axes.plot([], [], color=color, label=method)
        for name, value in zip(own[0]["names"], own[0]["references"], strict=True):
            if value < 1.3 * max(point["kl"] for row in own for point in row["curve"]):
                axes.axhline(value, color="#9aa5ab", lw=0.8, ls=":")
                axes.annotate(name, (0, value), fontsize=7, color="#6b757b", va="bottom")
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("thousands of tokens")
        axes.set_ylabel("held-out KL")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
