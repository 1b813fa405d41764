"""How results are said, in the terminal and in reports alike: columns, budgets, verdicts, places of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evopress.core.files import size
from evopress.settings.config import Config

COLUMNS = {
    "perplexity": ("perplexity", "{:.2f}".format),
    "kl": ("KL", "{:.4f}".format),
    "bits": ("bits", "{:.3f}".format),
    "bpw": ("bits with scales", "{:.3f}".format),
    "sparsity": ("sparsity", "{:.4f}".format),
    "dropped_attn": ("attention dropped", "{}".format),
    "dropped_mlp": ("MLP dropped", "{}".format),
    "dropped_experts": ("experts dropped of each layer", "{}".format),
    "parameters": ("parameters", "{:,}".format),
    "bytes": ("size", size),
    "search_tokens": ("search tokens", "{:,.0f}".format),
    "search_seconds": ("seconds", "{:.0f}".format),
}
"""Key of a row in evaluation.json -> title of its column, and how a value is written."""

BUDGETS = {
    "bits": "{} bits",
    "bpw": "{} bits a weight, scales and zeros included",
    "size": "{} bytes of files",
    "weights": "sparsity {}",
    "count": "{} of the depth dropped",
    "parameters": "{} of the blocks' parameters dropped",
    "bytes": "{} of the blocks' bytes dropped",
}

REFERENCES = {"dp": "the knapsack"}
"""References whose name in tables is not what one would say."""


def budget_text(config: Config) -> str:
    """The budget in words."""
    return BUDGETS[config.budget.counts].format(config.budget.target)


def after_bos(text: Mapping[str, Any]) -> str:
    """What is said after a number of tokens where the windows begin with BOS; `text` is the record of what was scored.

    >>> after_bos({"bos": 2}), after_bos({})
    (', each window after BOS', '')
    """
    return "" if text.get("bos") is None else ", each window after BOS"


def generations_text(config: Config) -> str:
    """How many generations a search will have, as far as the configuration knows."""
    limits = config.search.limits
    if limits.tokens is not None or limits.seconds is not None:
        return "as many as the limit allows"
    return str(config.search.generations or "k (n - k) / 1.5")


def duration(seconds: float) -> str:
    """A time in words: `41 s`, `6.5 min`, `2.1 h`.

    >>> duration(41), duration(390), duration(7560)
    ('41 s', '6.5 min', '2.1 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def final(rows: Mapping[str, Any]) -> str:
    """The row of evaluation.json that is the run's result: the searched profile, polished where that helped.

    >>> final({"dense": {}, "searched": {}, "polished": {}}), final({"dense": {}, "searched": {}})
    ('polished', 'searched')
    """
    return "polished" if "polished" in rows else "searched"


def others(rows: Mapping[str, Any]) -> list[str]:
    """The rows that the result is held against: references, and what it was before it was polished."""
    return [name for name in rows if name not in ("dense", "given", final(rows))]


def verdict(evaluation: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    rows = evaluation["profiles"]
    own, parts = final(rows), []
    for name in others(rows):
        if rows[name]["kl"]:
            change = 1 - rows[own]["kl"] / rows[name]["kl"]
            label = REFERENCES.get(name, name)
            amount = f"{abs(change):.0%}" if abs(change) >= 0.005 else "less than 1%"
            parts.append(f"{amount} {'below' if change > 0 else 'ABOVE'} {label}" if change else f"that of {label}")
    return f"The {own} profile's KL is {' and '.join(parts) or format(rows[own]['kl'], '.4f')}."


def differences(evaluation: Mapping[str, Any]) -> str:
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


def place(unit: str) -> tuple[int | None, str]:
    """(first block, role) of a unit from its name; no block for embedding and head.

    >>> place("model.layers.3.self_attn.q_proj"), place("model.layers.4-5.attn+mlp"), place("lm_head")
    ((3, 'self_attn.q_proj'), (4, 'attn+mlp'), (None, 'lm_head'))
    """
    parts = unit.split(".")
    at = next((i for i, part in enumerate(parts) if part.partition("-")[0].isdigit()), None)
    if at is None:
        return None, parts[-1]
    return int(parts[at].partition("-")[0]), ".".join(parts[at + 1 :])
