"""The card is Markdown with a header that the model hub reads, the figure is SVG, whatever the words in them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard

from evopress.formats.card import Card, Grid, Table, draw_grid, format_card, is_card, write_card

GRID = Grid(
    blocks=("0", "1", "10"),
    rows={"mlp.up": ("2", "4", ""), "mlp.down": ("8", "2", "2")},
    order=("2", "4", "8"),
    ends={"lm_head": "8"},
)
CARD = Card(
    title="a model, 3 bits",
    summary="One sentence.",
    metadata={"base_model": "someone/a-model", "library_name": "transformers"},
    tags=("quantization", "no: 1"),
    grid=GRID,
    facts={"Budget": "3 bits"},
    reproduce="evopress quantize a-model --bits 3",
    serve=[("With a server", "serve export")],
)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table of a Markdown text; ValueError when rows of one have different lengths."""
    found = []
    for part in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()]
        cells = [[cell.strip() for cell in row] for row in rows]
        assert len({len(row) for row in cells}) == 1
        found.append([cells[0], *cells[2:]])
    return found


def test_the_header_is_read_by_the_hub() -> None:
    data = ModelCard(format_card(CARD)).data
    assert data.base_model == "someone/a-model"
    assert data.library_name == "transformers"
    assert data.tags == ["evopress", "quantization", "no: 1"]


def test_the_profile_is_a_table_and_a_figure() -> None:
    text = format_card(CARD)
    assert tables(text) == [
        [["block", "mlp.up", "mlp.down"], ["0", "2", "8"], ["1", "4", "2"], ["10", "", "2"]],
    ]
    assert "](profile.svg)" in text
    assert "Beside the blocks: `lm_head` 8." in text
    assert text.count("```") == 4
    assert "\n```\nevopress quantize a-model --bits 3\n```\n" in text
    assert "With a server:\n\n```\nserve export\n```" in text


def test_scores_and_notes_are_there_when_there_are_some() -> None:
    assert "## Scores" not in format_card(CARD)
    scored = replace(CARD, scores=Table(("", "KL"), (("a|b", "0.1"),)), notes=("Mind the gap.",))
    text = format_card(scored)
    assert [["", "KL"], ["a\\|b", "0.1"]] in tables(text)
    assert "\n- Mind the gap.\n" in text
    assert "Beside the blocks" not in format_card(replace(CARD, grid=replace(GRID, ends={})))


def test_the_figure_shows_each_level_once_in_its_colour() -> None:
    root = ElementTree.fromstring(draw_grid(GRID))
    cells = [node for node in root.findall(".//{*}rect") if node.find("{*}title") is not None]
    assert [cell.findtext("{*}title") for cell in cells] == [
        "mlp.up of block 0: 2",
        "mlp.up of block 1: 4",
        "mlp.down of block 0: 8",
        "mlp.down of block 1: 2",
        "mlp.down of block 10: 2",
    ]
    colors = [cell.get("fill") for cell in cells]
    assert colors[0] == colors[3] == colors[4] == "#b2182b"
    assert len(set(colors)) == 3
    width = float(str(root.get("width")))
    assert all(float(str(cell.get("x"))) + float(str(cell.get("width"))) <= width for cell in cells)
    texts = [node.text for node in root.findall(".//{*}text")]
    assert [text for text in texts if text in GRID.order] == ["2", "4", "8", "2", "2"]


@pytest.mark.parametrize("levels", [1, 2, 30])
def test_any_number_of_levels_with_any_names_can_be_drawn(levels: int) -> None:
    order = tuple(f"<{number}&>" for number in range(levels))
    root = ElementTree.fromstring(draw_grid(Grid(order, {"<role>": order}, order)))
    assert len(root.findall(".//{*}rect")) == levels + 1


def test_cards_are_known_again(tmp_path: Path) -> None:
    assert not is_card(tmp_path)
    (tmp_path / "README.md").write_text("# evopress\n")
    assert not is_card(tmp_path)
    write_card(tmp_path, CARD)
    assert is_card(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "profile.svg"]
