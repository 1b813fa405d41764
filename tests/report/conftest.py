"""Small finished runs of the three applications, made once, and a page taken apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import evopress

VOID = {"meta", "link", "br", "img"}


@dataclass
class Page(HTMLParser):
    """A page's values by key, rows of unit tables, tags, addresses and text."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    units: dict[str, list[str]] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._unit = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if "data-key" in found:
            assert found["data-key"] not in self.values, "the same value twice"
            self.values[found["data-key"]] = json.loads(found["data-value"])
        if "data-unit" in found:
            self.cells[found["data-unit"]] = found
        self._unit = found.get("data-unit-row", "" if tag == "tr" else self._unit)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.text += data
        if self._unit and data.strip():
            self.units.setdefault(self._unit, []).append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all tags of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def runs(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs by application; read only."""
    from tests.conftest import SMALL, SMALL_OTHER

    folder = tmp_path_factory.mktemp("runs")
    model, data = str(checkpoint), str(text)
    evopress.quantize(model, data=data, out=folder / "bits", **SMALL)
    evopress.sparsify(model, data=data, sparsity=0.5, out=folder / "sparsity", **SMALL_OTHER)
    evopress.drop(model, data=data, fraction=0.34, out=folder / "depth", **SMALL_OTHER)
    return {name: folder / name for name in ("bits", "sparsity", "depth")}
