"""Results as tables in the terminal: the scores of an evaluation with their limits, and the front of a sweep."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from evopress.run.wording import COLUMNS, after_bos, final, others


def scores_table(evaluation: dict[str, Any]) -> Table:
    """Dense, references and searched, side by side."""
    data = evaluation["data"]
    title = f"held-out: {data['source']}, {evaluation['tokens']} tokens{after_bos(data)}"
    table = Table(title=title, title_justify="left")
    keys = [key for key in COLUMNS if any(key in row for row in evaluation["profiles"].values())]
    table.add_column("")
    for key in keys:
        table.add_column(COLUMNS[key][0], justify="right")
    limits = evaluation.get("uncertainty", {}).get("intervals", {})
    for name, row in evaluation["profiles"].items():
        style = "bold" if name == final(evaluation["profiles"]) else ""
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


def front_table(found: dict[str, Any]) -> Table:
    """One row for each target of a sweep, with the KL of its first reference beside it."""
    data = found["data"]
    title = f"held-out: {data['source']}, {data['tokens']} tokens{after_bos(data)}"
    table = Table(title=title, title_justify="left")
    for number, header in enumerate(("target", "size", "KL", "perplexity", "reference", "its KL", "on the front")):
        table.add_column(header, justify="right" if number else "left")
    for target in found["targets"]:
        rows = target["profiles"]
        row, other = rows[final(rows)], others(rows)[0]
        cells = [COLUMNS[key][1](row[key]) for key in ("bytes", "kl", "perplexity")]
        table.add_row(target["target"], *cells, other, f"{rows[other]['kl']:.4f}", "yes" if target["front"] else "no")
    return table
