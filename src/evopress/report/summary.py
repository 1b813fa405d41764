"""What a run directory holds, read from its files alone: no model is loaded and nothing is written."""

from __future__ import annotations

import json
from typing import Any

from evopress.database.manifest import read_manifest
from evopress.errors import DatabaseError
from evopress.formats.staging import is_whole
from evopress.run.directory import RunDirectory
from evopress.run.records import polish_record, read_json


def summarize(run: RunDirectory) -> dict[str, Any]:
    """How far the run has come, step by step, and its results so far.

    `database` is {units, of, bytes}, `search` {batches, generation}, `polish` {done, result, watched}, `profile` and
    `evaluation` the content of their files; a step that has not begun is None. `share` is the part of the blocks'
    weights that could be compressed.
    """
    return {
        "directory": str(run.path),
        "config": run.config.model_dump(mode="json"),
        "database": _database(run),
        "share": read_json(run.space, "search").get("share") if run.space.exists() else None,
        "search": _search(run),
        "profile": read_json(run.profile, "search") if run.profile.exists() else None,
        "polish": _polish(run),
        "evaluation": read_json(run.evaluation, "evaluate") if run.evaluation.exists() else None,
        "export": str(run.export) if is_whole(run.export) else None,
    }


def _database(run: RunDirectory) -> dict[str, int] | None:
    try:
        manifest = read_manifest(run.database)
    except DatabaseError:
        if (run.database / "manifest.json").exists():
            raise
        return None
    files = [run.database / entry.file for entry in manifest.units.values()]
    return {
        "units": len(manifest.units),
        "of": len(manifest.names),
        "bytes": sum(file.stat().st_size for file in files if file.exists()),
    }


def _polish(run: RunDirectory) -> dict[str, Any] | None:
    record = polish_record(run)
    return None if record is None else {"done": record.done, "result": record.result, "watched": dict(record.watched)}


def _search(run: RunDirectory) -> dict[str, int] | None:
    """Counts complete lines only: the last one may be in the middle of being written."""
    if not run.journal.exists():
        return None
    lines = run.journal.read_bytes().split(b"\n")[1:-1]
    return {"batches": len(lines), "generation": json.loads(lines[-1])["generation"] if lines else 0}
