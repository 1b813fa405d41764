"""Documents of local .txt, .jsonl and .parquet files.

A .txt file is one document; a line of a .jsonl file (field `text`) and a row of a .parquet file (column `text`) is one
document each. The whole file is read into memory. Every error names the file and, where there is one, the line.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from evopress.errors import DataError, MissingExtra

_FIELD = "text"


def read_documents(path: Path) -> list[str]:
    """The documents of a file that are not blank, in the file's order.

    Raises:
        DataError: no such file, an unknown suffix, no text in it, or a content that its suffix does not promise.
        MissingExtra: a .parquet file, and pyarrow is not installed.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; give one file")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path} has the unknown suffix {path.suffix!r}; text is read from {', '.join(READERS)} files")
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        documents = [document for document in read(path) if document.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not documents:
        raise DataError(f"{path} holds no text")
    return documents


def _read_txt(path: Path) -> Iterator[str]:
    yield path.read_text(encoding="utf-8-sig")


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path} line {number} is no JSON ({error.msg}); give one object a line") from None
            text = row.get(_FIELD) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise DataError(f"{path} line {number} has no text; give an object with the field {_FIELD!r}")
            yield text


def _read_parquet(path: Path) -> Iterator[str]:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra(f"{path} needs pyarrow, which is not installed: pip install 'evopress[data]'")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if _FIELD not in names:
                raise DataError(f"{path} has the columns {', '.join(names)}; one must be called {_FIELD!r}")
            for batch in file.iter_batches(columns=[_FIELD]):
                for text in batch.column(0).to_pylist():
                    if text is not None and not isinstance(text, str):
                        raise DataError(f"{path} has a column {_FIELD!r} of {type(text).__name__}; it must hold text")
                    yield text or ""
    except pyarrow.ArrowInvalid:
        raise DataError(f"{path} is no parquet file or is damaged") from None


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
