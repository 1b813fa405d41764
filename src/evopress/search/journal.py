"""The record of a search: one JSON line per scored batch, from which the search can be replayed.

A strategy is a function of its seed and of the scores it was told, so the scores are all that has to be kept. The file
is append-only and synced to disk after every batch, which costs milliseconds beside the minutes of scoring. It holds no
times and no host names: the same seed gives the same bytes.

    {"check":...,"fingerprint":{...},"journal":1,"seed":0}
    {"check":...,"generation":1,"profiles":"<sha256>","scores":[0.25,...],"stage":0,"tokens":2048}

`check` is a hash of the line and of the check before it, so any change in the middle shows. A process that is killed
while writing leaves an incomplete last line, which is dropped on resume; damage before the last line is an error.
A journal must never be shared by two live processes; the run directory's lock sees to that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from evopress.core.files import replacing
from evopress.errors import JournalError, RunError, RunMismatch, SchemaError
from evopress.search.types import Batch

SCHEMA = 1
_START = "0" * 16


class Journal:
    """An open journal: first it replays what it holds, then it appends.

    `batches` is the number of complete batches that were found on opening. An evaluator that numbers its minibatches
    continues at that number, so that a resumed search sees the minibatches of an uninterrupted one.

    `seed` and `fingerprint` (a JSON object: configuration, model, data) say what made the journal. Opening raises
    RunMismatch when the file was made by others, SchemaError when it is from a newer version, JournalError when it is
    damaged before its last line, RunError when it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, seed: int, fingerprint: Mapping[str, Any]) -> None:
        self.path = Path(path)
        header = {"journal": SCHEMA, "seed": seed, "fingerprint": json.loads(json.dumps(dict(fingerprint)))}
        self._check, first = _seal(_START, header)
        self._recorded: list[dict[str, Any]] = []
        try:
            found = self.path.read_bytes() if self.path.exists() else b""
            kept = self._load(found, header) if b"\n" in found else b""
            if not kept:
                if not first.startswith(found):
                    raise JournalError(f"line 1 of {self.path} is no journal header; name another file")
                kept = first
            if kept != found:
                with replacing(self.path) as whole:
                    whole.write_bytes(kept)
            self._file = self.path.open("ab")
        except OSError as error:
            raise RunError(f"the journal {self.path} cannot be opened: {error.strerror}; check the path") from error
        self.batches = len(self._recorded)
        self._replayed = 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._file.close()

    @property
    def remaining(self) -> int:
        """How many recorded batches have not been replayed yet."""
        return self.batches - self._replayed

    def replay(self, batch: Batch) -> list[float] | None:
        """The recorded scores of the next batch, None when all are used up; RunMismatch when another was recorded."""
        if not self.remaining:
            return None
        line = self._recorded[self._replayed]
        asked = _describe(batch)
        if {key: line.get(key) for key in asked} != asked or len(line["scores"]) != len(batch.profiles):
            raise RunMismatch(
                f"line {self._replayed + 2} of {self.path} records other profiles than this search asks for in "
                f"generation {batch.generation}, stage {batch.stage}; start it anew in another run directory"
            )
        self._replayed += 1
        return [float(score) for score in line["scores"]]

    def append(self, batch: Batch, scores: Sequence[float]) -> None:
        """Record a scored batch and sync it to disk; ValueError when recorded batches are still to be replayed."""
        if self.remaining:
            raise ValueError(f"{self.remaining} recorded batches are still to be replayed before one can be appended")
        kept = [float(score) if math.isfinite(score) else str(float(score)) for score in scores]
        check, line = _seal(self._check, {**_describe(batch), "scores": kept})
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"the journal {self.path} cannot be written: {error.strerror}; fix it and resume") from error
        self._check = check

    def _load(self, found: bytes, header: dict[str, Any]) -> bytes:
        """Read the complete lines into `_recorded` and return their bytes; nothing when there is not even a header."""
        lines = found.split(b"\n")
        last = len(lines) if lines[-1] else len(lines) - 1
        self._check = self._check_header(lines[0], header)
        kept = 1
        for number, line in enumerate(lines[1:last], start=2):
            body = _open(self._check, line) if number < len(lines) else None
            if body is None and number < last:
                raise JournalError(f"line {number} of {self.path} is damaged; restore the file or start a new run")
            if body is None:
                break
            self._check = body.pop("check")
            self._recorded.append(body)
            kept = number
        return b"\n".join(lines[:kept]) + b"\n"

    def _check_header(self, line: bytes, header: dict[str, Any]) -> str:
        """Compare the file's header with this run's and return its check."""
        body = _parse(line)
        if not isinstance(body.get("journal"), int):
            raise JournalError(f"line 1 of {self.path} is no journal header; restore the file or name another")
        if body["journal"] > SCHEMA:
            raise SchemaError(
                f"{self.path} has journal version {body['journal']}, this evopress reads {SCHEMA}; update evopress"
            )
        if _open(_START, line) is None:
            raise JournalError(f"line 1 of {self.path} is damaged; restore the file or start a new run")
        theirs = {**body["fingerprint"], "seed": body["seed"]}
        ours = {**header["fingerprint"], "seed": header["seed"]}
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                raise RunMismatch(
                    f"{self.path} was made with {key} = {theirs.get(key)!r}, this run has {ours.get(key)!r}; "
                    "use the same settings or another run directory"
                )
        return str(body["check"])


def _describe(batch: Batch) -> dict[str, Any]:
    """What identifies a batch on its line."""
    digest = hashlib.sha256()
    for profile in batch.profiles:
        digest.update(json.dumps([profile.names, profile.levels]).encode())
    described = {
        "generation": batch.generation,
        "stage": batch.stage,
        "tokens": batch.tokens,
        "profiles": digest.hexdigest(),
    }
    return described if batch.part is None else described | {"part": batch.part}


def _seal(before: str, body: Mapping[str, Any]) -> tuple[str, bytes]:
    """The check and the bytes of a line that follows the line with the check `before`."""
    check = hashlib.sha256((before + _dump(body)).encode()).hexdigest()[:16]
    return check, _dump({**body, "check": check}).encode() + b"\n"


def _open(before: str, line: bytes) -> dict[str, Any] | None:
    """The content of a line, its check included; None unless its bytes are those that `_seal` would write."""
    body = _parse(line)
    _, sealed = _seal(before, {key: value for key, value in body.items() if key != "check"})
    return body if sealed == line + b"\n" else None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
