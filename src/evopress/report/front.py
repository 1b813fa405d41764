"""Several runs side by side: which of them no other beats in both size and quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evopress.core.files import size
from evopress.report.charts import Chart, Mark, scatter
from evopress.report.data import RunData
from evopress.run import wording

MEASURES = {"kl": ("KL to the dense model", "{:.4f}"), "perplexity": ("perplexity", "{:.2f}")}
"""What the fronts show over the size."""


def view(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the template needs: one row for each run, the fronts, and whether all were scored on one text."""
    scored = [run for run in runs if run.evaluation]
    texts = {str((run.evaluation or {})["data"].get("fingerprint")) for run in scored}
    return {
        "came": came(scored),
        "rows": [row(run, on_front(run, scored)) for run in sorted(runs, key=_bytes)],
        "charts": [chart for key in MEASURES if (chart := pareto(scored, key))],
        "one_text": len(texts) <= 1,
    }


def came(scored: Sequence[RunData]) -> str:
    """What came out, in a sentence."""
    if not scored:
        return "None of them has been scored on held-out text yet."
    best = [run for run in scored if on_front(run, scored)]
    smallest, largest = min(map(_bytes, scored)), max(map(_bytes, scored))
    return (
        f"The searched models take {size(smallest)} to {size(largest)}; {len(best)} of {len(scored)} are on the front: "
        "no other run is at once as small and as good."
    )


def row(run: RunData, best: bool) -> dict[str, Any]:
    """One line of the table: searched and, where there is one, uniform or the other reference beside it."""
    profiles = run.evaluation["profiles"] if run.evaluation else {}
    other = next(iter(wording.others(profiles)), None)
    return {
        "path": str(run.path),
        "families": ", ".join(run.config.families),
        "budget": wording.budget_text(run.config),
        "searched": profiles.get(wording.final(profiles)),
        "reference": other,
        "other": profiles[other] if other else None,
        "front": best,
    }


def on_front(run: RunData, scored: Sequence[RunData], key: str = "kl") -> bool:
    """Whether a run is scored and no other one is as small and as good and better in one of the two."""
    return run.evaluation is not None and not any(dominates(_point(other, key), _point(run, key)) for other in scored)


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a point is nowhere larger than another and somewhere smaller.

    >>> dominates((1, 2), (1, 3)), dominates((1, 3), (2, 1)), dominates((1, 1), (1, 1))
    (True, False, False)
    """
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def pareto(scored: Sequence[RunData], key: str) -> Chart | None:
    """The size of each searched model against one measure, with the front as a line and the references as rings."""
    name, form = MEASURES[key]
    marks, line = [], []
    for run in sorted(scored, key=_bytes):
        rows = (run.evaluation or {})["profiles"]
        own = wording.final(rows)
        for profile in (*wording.others(rows), own):
            values = rows[profile]
            best = on_front(run, scored, key)
            kind = "reference" if profile != own else "accepted" if best else "kept"
            what = f"{profile} {', '.join(run.config.families)}" if profile == own else profile
            text = f"{what} at {wording.budget_text(run.config)}: {size(values['bytes'])}, {form.format(values[key])}"
            label = run.config.budget.target if profile == own else ""
            marks.append(Mark(values["bytes"] / 1e6, values[key], kind, text, label))
            if profile == own and best:
                line.append((values["bytes"] / 1e6, values[key]))
    return scatter(marks, line, title=f"Size against {name}", x_label="megabytes", y_label=name, step=False)


def _point(run: RunData, key: str) -> tuple[float, float]:
    rows = (run.evaluation or {})["profiles"]
    found = rows[wording.final(rows)]
    return found["bytes"], found[key]


def _bytes(run: RunData) -> float:
    return _point(run, "kl")[0] if run.evaluation else 0.0
