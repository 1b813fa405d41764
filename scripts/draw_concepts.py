"""Draws the figures of docs/concepts.md out of the search itself, so that they show what the code does.

    python scripts/draw_concepts.py

writes docs/figures/stages.svg and docs/figures/tree.svg: plain SVG that follows the reader's light or dark theme. The
same bytes on every machine; `tests/docs` compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.search.driver import run_search
from evopress.search.evolution import Evolution
from evopress.search.moves.mutation import free_switches
from evopress.search.stages import Schedule, validate_schedule
from evopress.search.types import BatchResult

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
BLOCKS, OFFSPRING, SURVIVORS, TOKENS = 12, 16, (6, 2, 1), (256, 1024, 4096)
STYLE = """\
<style>
text { font: 12px sans-serif; fill: #333 } .dim { fill: #888 }
.line { stroke: #999; fill: none } .dot { fill: #bbb } .kept { fill: #1f8a70 } .best { fill: none; stroke: #d1495b }
.cell { fill: #d1495b } .path { stroke: #1f8a70; stroke-width: 2; fill: none }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .line { stroke: #777 } .dot { fill: #666 } }
</style>
"""


def main() -> None:
    """Write both figures."""
    FIGURES.mkdir(exist_ok=True)
    for name, text in drawn().items():
        (FIGURES / name).write_text(text, encoding="utf-8")


def drawn() -> dict[str, str]:
    """File name -> SVG."""
    batches = generation()
    return {"stages.svg": stages(batches), "tree.svg": tree(batches)}


def space() -> SearchSpace:
    """A block of one layer each, at 2, 3 or 4 bits."""
    levels = tuple(Level(str(bits), 100 * bits) for bits in (2, 3, 4))
    return make_space([Unit(f"block{i}", i, "layer", 100, levels) for i in range(BLOCKS)], average=3, exchange="any")


def truth(profile: Profile) -> float:
    """What a profile costs on endless text: early blocks matter more."""
    return sum((4 - int(level)) * 1.0 / (1 + block) for block, (_, level) in enumerate(profile.items()))


def generation() -> list[BatchResult]:
    """The batches of one generation: each stage's candidates and their scores, noisier on fewer tokens."""
    noise, batches = Random(5), list[BatchResult]()

    def evaluate(profiles: list[Profile], tokens: int) -> list[float]:
        return [truth(profile) + noise.gauss(0, 8 / tokens**0.5) for profile in profiles]

    search = Evolution(
        space(),
        Random(2),
        Schedule(generations=1, offspring=OFFSPRING, stages=validate_schedule(OFFSPRING, SURVIVORS, TOKENS)),
        mutate=free_switches,
    )
    run_search(search, evaluate, None, batches.append)  # type: ignore[arg-type]
    return [result for result in batches if result.batch.generation == 1]


def stages(batches: list[BatchResult]) -> str:
    """One row for each stage, one dot for each candidate at its score; those that go on are green."""
    scores = [score for result in batches for score in result.scores]
    low, high = min(scores), max(scores)
    best = min((p for p in batches[0].batch.profiles), key=truth)
    parts = []
    for row, result in enumerate(batches):
        y, last = 40 + 70 * row, row == len(batches) - 1
        going = set(batches[row + 1].batch.profiles) if not last else {result.best}
        count = f"{len(result.scores)} candidates{', the parent among them' if last else ''}"
        parts += [
            _text(10, y - 14, f"stage {row + 1}: {count}, {result.batch.tokens} tokens each"),
            _line(20, y, 620, y),
        ]
        for profile, score in sorted(
            zip(result.batch.profiles, result.scores, strict=True), key=lambda p: p[0] in going
        ):
            x = 20 + 600 * (score - low) / (high - low)
            parts.append(f'<circle class="{"kept" if profile in going else "dot"}" cx="{x:.1f}" cy="{y}" r="6"/>')
            if profile == best:
                parts.append(f'<circle class="best" cx="{x:.1f}" cy="{y}" r="9" stroke-width="2"/>')
    bottom = 40 + 70 * len(batches) - 22
    parts.append(
        _text(10, bottom, "better  ←  score  →  worse;  green: goes on;  ring: truly the best offspring", "dim")
    )
    return _svg(640, bottom + 12, parts)


def tree(batches: list[BatchResult]) -> str:
    """One row for each candidate of a stage, one column for each block; equal beginnings are one line."""
    stage = batches[1].batch.profiles
    rows = sorted(tuple(level for _, level in profile.items()) for profile in stage)
    common = [max(set(column), key=column.count) for column in zip(*rows, strict=True)]
    starts = [0, *(_shared(above, levels) for above, levels in pairwise(rows))]
    parts, passes = [], sum(BLOCKS - start for start in starts)
    for row, (levels, start) in enumerate(zip(rows, starts, strict=True)):
        y = 40 + 30 * row
        if row:
            parent = max((other for other in range(row) if starts[other] < start), default=0)
            parts.append(f'<path class="path" d="M {_x(start)} {40 + 30 * parent} L {_x(start)} {y}"/>')
        parts.append(f'<path class="path" d="M {_x(start)} {y} L {_x(BLOCKS)} {y}"/>')
        parts += list(_cells(levels, common, start, y))
    parts += [_text(_x(block) + 14, 20, str(block), "dim") for block in range(BLOCKS)]
    bottom = 40 + 30 * len(rows)
    said = f"{passes} block passes instead of {len(rows) * BLOCKS};  red: a level that differs from most"
    return _svg(640, bottom + 16, [*parts, _text(10, bottom, said, "dim")])


def _cells(levels: tuple[str, ...], common: list[str], start: int, y: int) -> Iterator[str]:
    for block in range(start, BLOCKS):
        kind = "kept" if levels[block] == common[block] else "cell"
        yield f'<rect class="{kind}" x="{_x(block) + 10}" y="{y - 8}" width="28" height="16" rx="3"/>'
        yield f'<text x="{_x(block) + 20}" y="{y + 4}" style="fill: white">{levels[block]}</text>'


def _shared(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many blocks two candidates have alike from the beginning."""
    return next((block for block, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def _x(block: int) -> int:
    return 20 + 48 * block


def _line(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<line class="line" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: int, y: int, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{style}">{text}</text>'


def _svg(width: int, height: int, parts: list[str]) -> str:
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n{STYLE}{body}\n</svg>\n'


if __name__ == "__main__":
    main()
