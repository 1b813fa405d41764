"""The model card: README.md beside an exported model, with the profile as a table and a figure.

Knows no format and no run: what it says comes as data, so it is the same for every export. The figure is drawn here as
SVG, which costs a page of code and needs no package. Equal data give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

CARD, FIGURE = "README.md", "profile.svg"

TAG = "evopress"
"""Which all cards have."""

COLORS = ("#b2182b", "#ef8a62", "#fddbc7", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac", "#053061")
"""From the most compressed level to the least."""

CELL, ROW, GAP, CHARACTER = 30, 22, 2, 7  # pixels


@dataclass(frozen=True)
class Grid:
    """Levels by place: `rows[role][block]`, "" where a block has no such unit; `order`: all levels, the lowest first.

    `ends` are the units beside the blocks.
    """

    blocks: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...]
    ends: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; the first column is text, the others are numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says. `metadata` is its header for the model hub: name -> a word or several; `tags` its tags.

    `facts` are named sentences, `serve` what to type (for what, command), `notes` what a user would trip over.
    """

    title: str
    summary: str
    metadata: Mapping[str, str]
    tags: Sequence[str]
    grid: Grid
    facts: Mapping[str, str]
    reproduce: str
    serve: Sequence[tuple[str, str]]
    scores: Table | None = None
    notes: Sequence[str] = ()


def write_card(directory: Path, card: Card) -> None:
    """Write the card and its figure into a directory."""
    (directory / FIGURE).write_text(draw_grid(card.grid), encoding="utf-8")
    (directory / CARD).write_text(format_card(card), encoding="utf-8")


def is_card(directory: Path) -> bool:
    """Whether a directory has a card that was written here: its tags say so."""
    file = directory / CARD
    return file.is_file() and f"\n- {json.dumps(TAG)}\n" in file.read_text(encoding="utf-8", errors="replace")


def format_card(card: Card) -> str:
    """The card as Markdown with a header of YAML."""
    parts = [_header(card.metadata, (TAG, *card.tags)), f"# {card.title}", card.summary]
    if card.notes:
        parts.append("\n".join(f"- {note}" for note in card.notes))
    if card.scores:
        parts += ["## Scores", _table(card.scores)]
    parts += ["## Use"]
    for what, command in card.serve:
        parts += [f"{what}:", _code(command)]
    parts += ["## Profile", f"![The level of each unit by block]({FIGURE})", _table(_by_block(card.grid))]
    if card.grid.ends:
        parts.append(
            "Beside the blocks: " + ", ".join(f"`{name}` {level}" for name, level in card.grid.ends.items()) + "."
        )
    parts += ["## How it was made", "\n".join(f"- {name}: {text}" for name, text in card.facts.items())]
    parts += ["To make it again:", _code(card.reproduce)]
    return "\n\n".join(parts) + "\n"


def draw_grid(grid: Grid) -> str:
    """The figure as SVG: one row for each role, one column for each block, the level as colour and text.

    >>> draw_grid(Grid(("0",), {"mlp": ("4",)}, ("4",))).startswith("<svg ")
    True
    """
    longest = max(len(level) for level in grid.order)
    cell = max(CELL, CHARACTER * longest + 8)
    left = CHARACTER * max(map(len, grid.rows)) + 12
    width, height = left + cell * len(grid.blocks) + 12, ROW * (len(grid.rows) + 1) + 8
    colors = dict(zip(grid.order, _colors(len(grid.order)), strict=True))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="ui-monospace, monospace" font-size="11">',
        "<title>The level of each unit by block</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, block in enumerate(grid.blocks):
        lines.append(_text(left + cell * (column + 0.5), 16, block, "#444444"))
    for row, (role, levels) in enumerate(grid.rows.items(), start=1):
        top = ROW * row
        lines.append(_text(left - 8, top + 15, role, "#222222", anchor="end"))
        for column, level in enumerate(levels):
            if level:
                x = left + cell * column
                lines.append(
                    f'<rect x="{x}" y="{top}" width="{cell - GAP}" height="{ROW - GAP}" rx="2" fill="{colors[level]}">'
                    f"<title>{escape(f'{role} of block {grid.blocks[column]}: {level}')}</title></rect>"
                )
                lines.append(_text(x + (cell - GAP) / 2, top + 14, level, _ink(colors[level])))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, color: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'


def _colors(count: int) -> list[str]:
    """So many colours, as far apart as they can be."""
    last = len(COLORS) - 1
    return [COLORS[round(place * last / max(1, count - 1))] for place in range(count)]


def _ink(color: str) -> str:
    """Black or white, whichever is read better on a colour (its relative luminance, without gamma)."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _by_block(grid: Grid) -> Table:
    columns = zip(*grid.rows.values(), strict=True)
    return Table(
        ("block", *grid.rows), tuple((block, *levels) for block, levels in zip(grid.blocks, columns, strict=True))
    )


def _header(metadata: Mapping[str, str], tags: Sequence[str]) -> str:
    """YAML; JSON's strings are YAML's."""
    words = [f"{name}: {json.dumps(word)}" for name, word in metadata.items()]
    return "\n".join(["---", *words, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _table(table: Table) -> str:
    rules = ["---", *["---:"] * (len(table.headers) - 1)]
    rows = [table.headers, *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])


def _code(text: str) -> str:
    return f"```\n{text}\n```"
