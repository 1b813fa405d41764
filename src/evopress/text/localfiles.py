"""Documents of local files, compressed ones and directories of them too.

A .txt file is one document; an element of a .json array, a line of a .jsonl file and a row of a .parquet file is one
each. Its text lies in one field; where that is absent, chat `messages` become text through the model's own template. A
null text is no document. The whole file is read into memory. Every error names the file and, where there is one, the
line.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from evopress.errors import DataError, MissingExtra

FIELD = "text"
MESSAGES = "messages"

Render = Callable[[Sequence[Any]], str]
"""Chat messages, each with role and content, as the text that the model was trained on."""


def read_documents(path: Path, field: str = FIELD, render: Render | None = None) -> list[str]:
    """The documents of a file that are not blank, in the file's order; of a directory, file after file by name.

    Raises:
        DataError: no such file, an unknown suffix, no text in it, or a content that its suffix does not promise.
        MissingExtra: a .parquet file, and pyarrow is not installed.
    """
    require_suffix(path)
    documents = []
    for file in _files(path):
        try:
            for value in READERS[_suffix(file)](file, field):
                text = _text(file, value, field, render)
                if text.strip():
                    documents.append(text)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
        except (EOFError, zlib.error) as error:
            raise DataError(f"{file} is damaged: {error}; get it again") from error
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    if not documents:
        raise DataError(f"{path} holds no text")
    return documents


def require_suffix(path: Path) -> None:
    """DataError for a path whose name no reader fits, a path that is not there, or a directory without such files."""
    if path.is_dir():
        if not _files(path):
            raise DataError(f"{path} is a directory without {', '.join(READERS)} files")
        return
    if _suffix(path) not in READERS:
        raise DataError(f"{path} has the unknown suffix {path.suffix!r}; text is read from {', '.join(READERS)} files")
    if not path.is_file():
        raise DataError(f"{path} does not exist")


def text_of(row: Any, field: str, where: str) -> Any:
    """What a row holds as its text: a string, chat messages or None; DataError where it has neither."""
    if isinstance(row, str):
        return row
    if isinstance(row, dict):
        for name in (field, MESSAGES):
            if name in row:
                return row[name]
    raise DataError(f"{where} has no text; give an object with the field {field!r} (--text-field), or {MESSAGES!r}")


def _text(file: Path | str, value: Any, field: str, render: Render | None) -> str:
    if isinstance(value, list) and render is not None:
        value = render(value)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{file} has {type(value).__name__} in {field!r}; it must hold text")
    text: str = value or ""
    if "\0" in text:
        raise DataError(f"{file} holds NUL characters, as UTF-16 without a mark does; convert it to UTF-8")
    return text


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    shown = (f for f in sorted(path.rglob("*")) if not any(part.startswith(".") for part in f.relative_to(path).parts))
    return [file for file in shown if file.is_file() and _suffix(file) in READERS]


def _open(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def _read_txt(path: Path, field: str) -> Iterator[Any]:
    with _open(path) as file:
        yield file.read()


def _read_json(path: Path, field: str) -> Iterator[Any]:
    with _open(path) as file:
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno} is no JSON ({error.msg}); give an array of objects") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds {type(rows).__name__} in place of an array; give an array of objects")
    yield from _each(path, rows, field, "element")


def _read_jsonl(path: Path, field: str) -> Iterator[Any]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path} line {number} is no JSON ({error.msg}); give one object a line") from None
            yield text_of(row, field, f"{path} line {number}")


def _each(path: Path, rows: Iterable[Any], field: str, what: str) -> Iterator[Any]:
    for number, row in enumerate(rows, start=1):
        yield text_of(row, field, f"{path} {what} {number}")


def _read_parquet(path: Path, field: str) -> Iterator[Any]:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra(f"{path} needs pyarrow, which is not installed: pip install 'evopress[data]'")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = next((name for name in (field, MESSAGES) if name in names), None)
            if column is None:
                raise DataError(f"{path} has the columns {', '.join(names)}; one must be called {field!r}")
            for batch in file.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
    except pyarrow.ArrowInvalid:
        raise DataError(f"{path} is no parquet file or is damaged") from None


READERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    ".txt": _read_txt,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt.gz": _read_txt,
    ".json.gz": _read_json,
    ".jsonl.gz": _read_jsonl,
}
"""Suffix -> what reads the values of a field; the readers know nothing of templates."""
