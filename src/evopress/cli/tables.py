"""Results as tables and sentences: the scores of an evaluation, how sure they are, and what they come to."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from evopress.files import size

COLUMNS = {
    "perplexity": ("perplexity", "{:.2f}".format),
    "kl": ("KL", "{:.4f}".format),
    "bits": ("bits", "{:.3f}".format),
    "bpw": ("bits with scales", "{:.3f}".format),
    "sparsity": ("sparsity", "{:.4f}".format),
    "dropped_attn": ("attention dropped", "{}".format),
    "dropped_mlp": ("MLP dropped", "{}".format),
    "parameters": ("parameters", "{:,}".format),
    "bytes": ("size", size),
    "search_tokens": ("search tokens", "{:,.0f}".format),
    "search_seconds": ("seconds", "{:.0f}".format),
}
"""Key of a row in evaluation.json -> title of its column, and how a value is written."""


def scores_table(evaluation: dict[str, Any]) -> Table:
    """Dense, references and searched, side by side."""
    data = evaluation["data"]
    table = Table(title=f"held-out: {data['source']}, {evaluation['tokens']} tokens", title_justify="left")
    keys = [key for key in COLUMNS if any(key in row for row in evaluation["profiles"].values())]
    table.add_column("")
    for key in keys:
        table.add_column(COLUMNS[key][0], justify="right")
    limits = evaluation.get("uncertainty", {}).get("intervals", {})
    for name, row in evaluation["profiles"].items():
        style = "bold" if name == "searched" else ""
        cells = (_cell(key, row.get(key), limits.get(name, {}).get(key)) for key in keys)
        table.add_row(name, *cells, style=style)
    return table


def _cell(key: str, value: Any, interval: list[float] | None) -> str:
    """A value, and below it the limits of its confidence interval where it has one."""
    if value is None:
        return ""
    write = COLUMNS[key][1]
    if interval is None or interval[0] == interval[1]:
        return write(value)
    return f"{write(value)}\n[not bold dim]{write(interval[0])}–{write(interval[1])}[/]"


def tasks_table(found: dict[str, Any]) -> Table:
    """One row for each metric of each task, one column for each model; below a value its standard error."""
    settings = found["settings"]
    asked = [f"{key.replace('_', ' ')} {settings[key]}" for key in ("fewshot", "limit") if settings[key] is not None]
    table = Table(title=f"tasks{', ' if asked else ''}{', '.join(asked)}", title_justify="left")
    table.add_column("")
    for name in found["profiles"]:
        table.add_column(name, justify="right")
    for task, metrics in next(iter(found["profiles"].values())).items():
        for metric in (key for key in metrics if not key.endswith("_stderr")):
            cells = (_with_error(results[task], metric) for results in found["profiles"].values())
            table.add_row(f"{task} {metric}", *cells)
    return table


def _with_error(metrics: dict[str, float], metric: str) -> str:
    error = metrics.get(f"{metric}_stderr")
    return f"{metrics[metric]:.4f}" + (f"\n[dim]±{error:.4f}[/]" if error else "")


REFERENCES = {"dp": "the knapsack"}
"""References whose name in tables is not what one would say."""


def verdict(evaluation: dict[str, Any]) -> str:
    """The result in a sentence."""
    rows = evaluation["profiles"]
    parts = []
    for name in rows:
        if name not in ("dense", "searched", "given") and rows[name]["kl"]:
            change = 1 - rows["searched"]["kl"] / rows[name]["kl"]
            label = REFERENCES.get(name, name)
            parts.append(f"{abs(change):.0%} {'below' if change >= 0 else 'ABOVE'} {label}")
    return f"The searched profile's KL is {' and '.join(parts) or format(rows['searched']['kl'], '.4f')}."


def differences(evaluation: dict[str, Any]) -> str:
    """What the paired tests say, a line for each profile that the searched one was held against."""
    found = evaluation.get("uncertainty", {})
    lines = []
    for name, one in found.get("against", {}).items():
        kl, perplexity = one["kl"], one["perplexity"]
        if name == "dense" or kl["interval"] is None or perplexity["interval"] is None:
            continue
        lines.append(
            f"against {name}: KL {kl['difference']:+.4f} ({kl['interval'][0]:+.4f} to {kl['interval'][1]:+.4f}), "
            f"perplexity x{perplexity['ratio']:.3f} ({perplexity['interval'][0]:.3f} to "
            f"{perplexity['interval'][1]:.3f}), {_luck(kl['p'])}"
        )
    if lines:
        lines.append(
            f"limits: {found['level']:.0%} bootstrap over {found['sequences']} sequences; p: of the KLs, paired"
        )
    return "\n".join(lines)


def _luck(p: float) -> str:
    """A p value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
