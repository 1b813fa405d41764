"""What a user can write as data: names, files, and the one-line errors for everything else."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evopress.errors import DataError, MissingExtra
from evopress.testing import pico_tokenizer
from evopress.text import sources
from evopress.text.loading import render_chat
from evopress.text.localfiles import read_documents
from evopress.text.sources import open_heldout, open_text, require_source
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
        ("a.csv", "x", r"unknown suffix '.csv'; text is read from .txt, .json, .jsonl, .parquet, .txt.gz"),
        ("a.txt", "one".encode("utf-16"), r"a.txt is not UTF-8 text \(byte 0\)"),
        ("a.txt", "one".encode("utf-16-le"), "a.txt holds NUL characters, as UTF-16 without a mark does"),
        ("a.txt.gz", "no gzip", "a.txt.gz cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "one"}' * 99, mtime=0)[:30], "a.jsonl.gz is damaged"),
        ("a.csv.gz", "x", "unknown suffix '.gz'"),
        ("a.json", '{"text": "x"}', "a.json holds dict in place of an array; give an array of objects"),
        ("a.json", '[{"text": "x"}', "a.json line 1 is no JSON"),
        ("a.json", '[{"text": "x"}, 3]', "a.json element 2 has no text; give an object with the field 'text'"),
        ("a.jsonl", '{"text": 3}', "a.jsonl has int in 'text'; it must hold text"),
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


def test_null_texts_are_skipped_in_every_format(tmp_path: Path):
    rows = [{"text": "one"}, {"text": None}, {"text": "two"}]
    write(tmp_path / "a.json", json.dumps(rows))
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    write(tmp_path / "b.jsonl.gz", gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.json", "a.jsonl", "b.jsonl.gz", "a.parquet"):
        assert read_documents(tmp_path / name) == ["one", "two"]


def test_a_directory_is_all_its_files_by_name(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "deep/a.txt.gz", gzip.compress(b"third", mtime=0))
    write(tmp_path / "b.json", '["second"]')
    write(tmp_path / "a.TXT", "first")
    write(tmp_path / "notes.md", "nothing to learn from")
    write(tmp_path / ".cache/x.txt", "hidden")
    assert read_documents(tmp_path) == ["first", "second", "third"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty is a directory without \.txt, \.json, \.jsonl"):
        read_documents(tmp_path / "empty")


def test_another_field_and_chat_messages(tmp_path: Path):
    chat = [{"role": "user", "content": "hello"}]
    rows = [{"body": "one", "messages": chat}, {"messages": chat}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist([{"messages": chat}]), tmp_path / "a.parquet")

    def render(messages):
        return "|".join(one["role"] + ":" + one["content"] for one in messages)

    assert read_documents(tmp_path / "a.jsonl", "body", render) == ["one", "user:hello"]
    assert read_documents(tmp_path / "a.parquet", "body", render) == ["user:hello"]


def test_chat_templates(tmp_path: Path):
    tokenizer = pico_tokenizer(bos=True)
    with pytest.raises(DataError, match="the model's tokenizer has no chat template; give text"):
        render_chat(tokenizer, [{"role": "user", "content": "hello"}])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    assert render_chat(tokenizer, [{"role": "user", "content": "hello"}]) == "user: hello"
    with pytest.raises(DataError, match="the model's chat template refuses messages of the data: "):
        render_chat(tokenizer, [{"role": "user", "content": 3}])


def test_the_home_directory_and_names_are_known_before_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.txt", "one two three")
    require_source("~/a.txt")
    assert list(open_heldout("~/a.txt", 100).heldout) == ["one two three"]
    for name in (*sources.NAMES, "hub:any/thing"):
        require_source(name)
    with pytest.raises(DataError, match=r"unknown suffix '.csv'"):
        require_source("~/a.csv")


def test_parquet_columns_are_checked(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    with pytest.raises(DataError, match="has the columns body, id; one must be called 'text'"):
        read_documents(path)
    pq.write_table(pa.table({"text": [1]}), path)
    with pytest.raises(DataError, match="has int in 'text'; it must hold text"):
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
    with pytest.raises(DataError, match=r"a\.txt is a directory without"):
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
