"""The paper's protocols on the hub's datasets, with the library `datasets` replaced by a fake that serves rows."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from evopress.errors import DataError, MissingExtra
from evopress.text.documents import is_heldout
from evopress.text.sources import open_text


class Rows:
    """What `load_dataset(..., streaming=True)` gives: rows, and a shuffle."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def shuffle(self, seed: int, buffer_size: int) -> Rows:
        assert buffer_size > 1
        return Rows(random.Random(seed).sample(self.rows, len(self.rows)))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class Hub:
    """Records requests and serves `texts[split]`."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.texts: dict[str, list[Any]] = {}

    def load_dataset(self, path: str, **options: Any) -> Rows:
        assert options.pop("streaming")
        self.requests.append({"path": path, **options})
        return Rows([{"text": text} for text in self.texts[options["split"]]])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fake.load_dataset))
    return fake


def opened(source: str, seed: int = 0) -> tuple[list[str], list[str]]:
    text = open_text(source, seed, passage=100)
    return list(text.training), list(text.heldout)


def test_nothing_is_requested_before_it_is_read(hub: Hub):
    open_text("wikitext2", 0, passage=100)
    open_text("c4", 0, passage=100)
    assert not hub.requests


def test_wikitext2_is_the_test_text_joined_by_two_newlines(hub: Hub):
    hub.texts = {
        "train": ["", " = A = \n", "one\n", " = = B = = \n", "two\n", " = C = \n", "three\n"],
        "test": ["", " = T = \n", "x\n"],
    }
    training, heldout = opened("wikitext2")
    assert heldout == ["\n\n = T = \n\n\nx\n"]
    assert sorted(training) == ["", " = A = \n\n\none\n\n\n = = B = = \n\n\ntwo\n", " = C = \n\n\nthree\n"]
    assert {(r["path"], r["name"]) for r in hub.requests} == {("Salesforce/wikitext", "wikitext-2-raw-v1")}


def test_c4_is_the_first_1100_validation_documents_at_the_papers_revision(hub: Hub):
    hub.texts = {"train": ["a", "b", "c", "d"], "validation": [f"v{i}" for i in range(1200)]}
    training, heldout = opened("c4")
    assert heldout == ["\n\n".join(f"v{i}" for i in range(1100))]
    assert sorted(training) == ["a", "b", "c", "d"]
    assert {r["revision"] for r in hub.requests} == {"607bd4c8450a42878aa9ddc051a65a055450ef87"}
    assert open_text("c4", 0, passage=100).whole_windows


@pytest.mark.parametrize("source", ["fineweb_edu", "hub:owner/name"])
def test_one_split_is_divided_by_content_not_by_seed(source: str, hub: Hub):
    hub.texts = {"train": [f"document {i}" for i in range(100)]}
    training, heldout = opened(source)
    assert not any(is_heldout(document) for document in training)
    assert sorted(training + heldout) == sorted(hub.texts["train"])
    assert opened(source, seed=1)[1] == heldout
    assert opened(source, seed=1)[0] != training
    assert open_text(source, 0, passage=100).packed == (source != "fineweb_edu")


def test_a_hub_name_takes_config_and_split(hub: Hub):
    hub.texts = {"dev": ["x"], "train": ["x"]}
    opened("hub:owner/name:small:dev")
    opened("hub:owner/name")
    assert hub.requests[0] == {"path": "owner/name", "name": "small", "split": "dev"}
    assert hub.requests[-1] == {"path": "owner/name", "name": None, "split": "train"}
    for bad in ("hub:", "hub:a:b:c:d"):
        with pytest.raises(DataError, match="names no hub dataset"):
            open_text(bad, 0, passage=100)


def test_a_dataset_without_text_is_an_error(hub: Hub):
    hub.texts = {"train": [3]}
    with pytest.raises(DataError, match="hub:x has the columns text; one must be called 'text' and hold text"):
        opened("hub:x")


def test_whatever_the_library_raises_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no route to the hub\nand a second line")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    with pytest.raises(DataError, match=r"^c4 cannot be read from the hub \(allenai/c4\): no route to the hub$"):
        opened("c4")


def test_without_datasets_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"evopress\[data\]"):
        opened("wikitext2")
