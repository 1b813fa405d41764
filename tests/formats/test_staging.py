from __future__ import annotations

import errno
from pathlib import Path

import pytest

from evopress.core import files
from evopress.errors import ResourceError, RunError
from evopress.formats.staging import hidden, is_whole, staged

WHOLE = ["out", "out/README.md", "out/config.json", "out/weights"]


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def export(directory: Path, text: str, entry: str = "config.json") -> None:
    with staged(directory, 10) as partial:
        hidden(partial / entry).write_text(text)
        (partial / "weights").write_text(text)
        (partial / "README.md").write_text('tags:\n- "evopress"\n')


@pytest.mark.parametrize("entry", ["config.json", "model.gguf"])
def test_an_export_appears_whole_and_is_replaced_whole(tmp_path: Path, entry: str) -> None:
    for text in ("first", "second"):
        export(tmp_path / "out", text, entry)
        assert names(tmp_path) == ["out", "out/README.md", f"out/{entry}", "out/weights"]
        assert (tmp_path / "out" / entry).read_text() == text
        assert is_whole(tmp_path / "out")


def test_entries_are_hidden_even_when_the_writer_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evopress.formats.staging._replace", stop)
    monkeypatch.setattr("evopress.formats.staging._remove", lambda directory: None)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", 10) as partial:
        (partial / "config.json").write_text("{}")
    assert names(tmp_path) == ["out.partial", "out.partial/config.json.partial"]


def test_an_error_leaves_the_earlier_export_and_nothing_else(tmp_path: Path) -> None:
    export(tmp_path / "out", "first")

    def fail() -> None:
        with staged(tmp_path / "out", 10) as partial:
            (partial / "config.json").write_text("second")
            raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        fail()
    assert names(tmp_path) == WHOLE
    assert (tmp_path / "out" / "config.json").read_text() == "first"


def test_what_a_kill_leaves_is_no_export_and_is_cleared_away(tmp_path: Path) -> None:
    for name in ("out", "out.partial", "out.earlier.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json.partial").write_text("{}")
    assert not is_whole(tmp_path / "out")
    export(tmp_path / "out", "new")
    assert names(tmp_path) == WHOLE


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", "new")
    assert names(tmp_path) == WHOLE


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    (tmp_path / "out" / "config.json").write_text("{}")  # it may be the model itself
    with pytest.raises(RunError, match="out exists and is no export of evopress; give a new directory"):
        export(tmp_path / "out", "new")
    with pytest.raises(RunError, match=r"thesis\.tex exists and is no export"):
        export(tmp_path / "out" / "thesis.tex", "new")
    assert names(tmp_path) == ["out", "out/config.json", "out/thesis.tex"]


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    line = r"the export needs 1000000\.0 TB of disk but .* free"
    with pytest.raises(ResourceError, match=line), staged(tmp_path / "out", 10**18):
        raise AssertionError("nothing may be written")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('Error while serializing: I/O error: "No space left on device (os error 28)"'),
    ],
)
def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, error: Exception) -> None:
    line = rf"^the disk of {tmp_path} is full, .* left; free some and run again$"
    with pytest.raises(ResourceError, match=line), staged(tmp_path / "out", 10):
        raise error
    with pytest.raises(ResourceError, match=line), files.replacing(tmp_path / "file"):
        raise error
    assert names(tmp_path) == []
    with pytest.raises(OSError, match="Permission denied"), files.replacing(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "Permission denied")
