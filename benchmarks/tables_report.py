"""The tables of benchmarks/tables.py, made from its lines alone: one for each application, then one for each target."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from long_run import spread

Line = dict[str, Any]

KINDS = {"fraction": "Depth", "sparsity": "Sparsity", "bits": "Bits"}
TEXTS = {"first": "held-out articles", "second": "the second text"}


def done(rows: Path) -> dict[tuple[str, int | None], list[dict[str, Any]]]:
    """(target, seed) -> the lines of a finished job."""
    found: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for line in map(json.loads, rows.read_text().splitlines() if rows.exists() else ()):
        found.setdefault((line["target"], line["seed"]), []).append(line)
    return found


def report(rows: Path) -> str:
    """Markdown."""
    lines = [line for own in done(rows).values() for line in own]
    return "\n".join([*overviews(lines), *tables(lines)])


def overviews(lines: Sequence[Line]) -> Iterator[str]:
    """For each application and text the KL of every method at every target, the lowest of each in bold."""
    for kind, title in KINDS.items():
        own = [line for line in lines if line["target"].startswith(f"{kind}=") and "skipped" not in line]
        targets = sorted({line["target"] for line in own})
        for text, name in TEXTS.items() if targets else ():
            yield f"### {title}: KL on {name}"
            yield ""
            yield "| | " + " | ".join(target.partition("=")[2] for target in targets) + " |"
            yield "|---|" + "---:|" * len(targets)
            yield from _overview(own, targets, text)
            yield ""


def _overview(lines: Sequence[Line], targets: Sequence[str], text: str) -> Iterator[str]:
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        if line["method"] != "dense":
            found.setdefault(line["method"], {}).setdefault(line["target"], []).append(line[text]["kl"])
    means = {method: {target: statistics.mean(kls) for target, kls in own.items()} for method, own in found.items()}
    best = {target: min(own[target] for own in means.values() if target in own) for target in targets}
    for method in sorted(found, key=lambda method: (len(targets) - len(means[method]), sum(means[method].values()))):
        cells = []
        for target in targets:
            cell = spread(found[method][target], 3) if target in found[method] else ""
            cells.append(f"**{cell}**" if means[method].get(target) == best[target] else cell)
        yield f"| {method} | {' | '.join(cells)} |"


def tables(lines: Sequence[Line]) -> Iterator[str]:
    """A table for each target that has lines."""
    for target in sorted({line["target"] for line in lines}):
        own = [line for line in lines if line["target"] == target]
        name, _, value = target.partition("=")
        seeds = len({line["seed"] for line in own} - {None})
        yield f"### {name} {value} ({seeds} seed{'' if seeds == 1 else 's'})"
        yield ""
        yield "| | KL | perplexity | KL, second text | perplexity, second text | search tokens | seconds |"
        yield "| --- | --: | --: | --: | --: | --: | --: |"
        methods: dict[str, list[Line]] = {}
        for line in own:
            if "skipped" not in line:
                methods.setdefault(line["method"], []).append(line)
        order = sorted(methods, key=lambda method: statistics.mean(line["first"]["kl"] for line in methods[method]))
        yield from (row(method, methods[method]) for method in order)
        yield from (f"\n{line['method']} was skipped: {line['skipped']}" for line in own if "skipped" in line)
        yield ""


def row(method: str, lines: list[Line]) -> str:
    """One line of a table: means, with the standard deviation over seeds where there are several."""
    cells = [method]
    for text in ("first", "second"):
        cells.append(spread([line[text]["kl"] for line in lines], 4))
        cells.append(spread([line[text]["perplexity"] for line in lines], 2))
    for cost in ("search_tokens", "search_seconds"):
        cells.append(f"{statistics.mean(line.get(cost, 0) for line in lines):,.0f}")
    return "| " + " | ".join(cells) + " |"
