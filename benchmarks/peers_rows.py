"""The rows of benchmarks/peers.py: which there are, which are finished, and the table that they make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evopress.settings.sections import QuantizeSection

PEERS = {
    "autoround-50": "autoround",
    "llmcompressor-gptq": "llmcompressor",
    "llmcompressor-gptq-mse": "llmcompressor",
    "llmcompressor-awq": "llmcompressor",
    "hqq": "hqq",
    "rtn": None,
    "evopress": None,
    "autoround-200": "autoround",
}
"""Tool -> the environment that it works in; None: this one. In the order of the work."""
OURS = frozenset(QuantizeSection.model_fields) - {"group_size"}
"""Settings that say how evopress makes levels, and nothing of the task."""
HEAD = "| bits | tool | KL | perplexity | CPU seconds |\n|---:|---|---:|---:|---:|"


@dataclass(frozen=True)
class Job:
    """One row; `given` are the settings that concern it, as JSON."""

    peer: str
    bits: int
    model: str
    given: str

    @property
    def name(self) -> str:
        """The directory of its files."""
        return f"{self.peer}-{self.bits}-bits"

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `given`."""
        found: dict[str, Any] = json.loads(self.given)
        return found


def jobs(
    model: str, widths: Sequence[int], only: Sequence[str] | None, settings: Sequence[tuple[str, Any]]
) -> list[Job]:
    """A width after the other; how evopress makes levels concerns its own row alone."""
    own = {peer: dict(settings) if peer == "evopress" else task(settings) for peer in PEERS if peer in (only or PEERS)}
    return [Job(peer, bits, model, json.dumps(given, sort_keys=True)) for bits in widths for peer, given in own.items()]


def task(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Settings that concern every row: the model, the text, the groups."""
    return {name: value for name, value in settings if name not in OURS}


def finished(rows: Path) -> dict[Job, dict[str, Any]]:
    """The last line of each job, failed ones too."""
    lines = map(json.loads, rows.read_text(encoding="utf-8").splitlines() if rows.exists() else ())
    return {
        Job(line["peer"], line["bits"], line["model"], json.dumps(line["settings"], sort_keys=True)): line
        for line in lines
    }


def table(rows: Path) -> str:
    """Markdown, a table for each task, the smallest KL of each width first."""
    tasks: dict[str, list[tuple[Job, dict[str, Any]]]] = {}
    for job, line in finished(rows).items():
        more = "".join(f", {name}={value}" for name, value in task(list(job.settings.items())).items())
        tasks.setdefault(f"{job.model}{more}", []).append((job, line))
    parts = []
    for title, found in tasks.items():
        found.sort(key=lambda pair: (pair[0].bits, pair[1].get("kl", math.inf)))
        dense = [f", dense perplexity {line['dense_perplexity']:.2f}" for _, line in found if "kl" in line][:1]
        parts.append("\n".join(["".join([title, *dense, ":"]), "", HEAD, *(cells(*pair) for pair in found)]))
    return "\n\n".join(parts)


def cells(job: Job, line: Mapping[str, Any]) -> str:
    """A row of the table."""
    own = ", ".join(f"{name}={value}" for name, value in job.settings.items() if name in OURS)
    label = f"| {job.bits} | {job.peer}{own and f' ({own})'} |"
    if "failed" in line:
        return f"{label} failed: {line['failed']} | | |"
    cost = f"{line['cpu_seconds']:,.0f}"
    if line["device"] != "CPU":
        cost = f"{line['seconds']:,.0f} s on {line['device']}"
    elif line["threads"] > 1:
        cost += f" ({line['threads']} threads)"
    return f"{label} {line['kl']:.4f} | {line['perplexity']:.2f} | {cost} |"
