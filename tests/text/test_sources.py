"""What a user can write as data: names, files, and the one-line errors for everything else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evopress.errors import DataError, MissingExtra
from evopress.text import sources
from evopress.text.localfiles import read_documents
from evopress.text.sources import open_heldout, open_text
from evopress.text.wikipedia import demo_articles


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_each_format_gives_its_documents(tmp_path: Path):
    assert read_documents(write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo")) == ["one\ntwo"]
    lines = '{"text": "one"}\n\n{"text": " "}\n{"text": "two", "id": 3}\n'
    assert read_documents(write(tmp_path / "a.jsonl", lines)) == ["one", "two"]
    pq.write_table(pa.table({"text": ["one", None, "two"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.parquet") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt holds no text"),
        ("a.txt", " \n\n", "a.txt holds no text"),
        ("a.txt", b"abc\xff", r"a.txt is not UTF-8 text \(byte 3\)"),
        ("a.csv", "x", r"unknown suffix '.csv'; text is read from .txt, .jsonl, .parquet files"),
        ("a.jsonl", "", "a.jsonl holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"text": ', r"a.jsonl line 2 is no JSON \("),
        ("a.jsonl", '{"text": "x"}\n{"body": "y"}', "a.jsonl line 2 has no text; give an object with the field 'text'"),
        ("a.jsonl", "[1]", "a.jsonl line 1 has no text"),
        ("a.parquet", "no parquet", "a.parquet is no parquet file or is damaged"),
    ],
)
def test_bad_files_are_one_line_errors(name: str, content: str | bytes, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message) as caught:
        read_documents(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_parquet_columns_are_checked(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    with pytest.raises(DataError, match="has the columns body, id; one must be called 'text'"):
        read_documents(path)
    pq.write_table(pa.table({"text": [1]}), path)
    with pytest.raises(DataError, match="has a column 'text' of int; it must hold text"):
        read_documents(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"evopress\[data\]"):
        read_documents(write(tmp_path / "a.parquet", ""))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wikitext3", "unknown data 'wikitext3'; give demo, wikitext2, c4, fineweb_edu, hub:NAME or a .txt"),
        ("", "unknown data ''"),
        ("missing.txt", r"missing.txt does not exist"),
    ],
)
def test_unknown_sources_list_the_known(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_text(source, seed=0, passage=100)


def test_a_directory_is_no_file(tmp_path: Path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DataError, match="is a directory; give one file"):
        read_documents(tmp_path / "a.txt")


def test_the_demo_is_split_by_article(monkeypatch: pytest.MonkeyPatch):
    articles = list(demo_articles())
    monkeypatch.setattr(sources, "demo_articles", lambda: articles)
    text = open_text("demo", seed=0, passage=4000)
    training, heldout = list(text.training), list(text.heldout)
    assert set(training).isdisjoint(heldout)
    assert 0.1 < sum(map(len, heldout)) / sum(map(len, training)) < 0.5
    assert list(open_heldout("demo", passage=4000).heldout) == heldout
    assert list(open_text("demo", seed=1, passage=4000).training) != training
