"""A search that was killed anywhere and resumed is the search that was never killed, byte for byte."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import JournalError, RunError, RunMismatch, SchemaError
from evopress.search import Batch, Evaluate, Evolution, Journal, Schedule, Stage, free_switches, run_search
from evopress.search.starts.drawn import default_starts

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]
PRINT = {"model": "toy", "tokens": [1, 2]}


def run(space: SearchSpace, evaluate: Evaluate, path: Path, generations: int = 4, seed: int = 3) -> tuple[Profile, int]:
    """The best profile and the number of batches that were not replayed."""
    rng = Random(seed)
    search = Evolution(
        space,
        rng,
        Schedule(generations=generations, offspring=4, stages=(Stage(1, 2), Stage(2, 1))),
        mutate=free_switches,
        start=default_starts(space, rng, 4),
    )
    scored = []
    with Journal(path, seed=seed, fingerprint=PRINT) as journal:
        best = run_search(search, evaluate, journal, on_batch=lambda seen: scored.append(not seen.replayed))
    return best, sum(scored)


def test_resume_from_every_prefix_equals_the_uninterrupted_run(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space = toy(average="2.75")
    whole = tmp_path / "whole.jsonl"
    best, batches = run(space, fitness(space), whole, generations=1)
    content = whole.read_bytes()
    path = tmp_path / "cut.jsonl"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        again, scored = run(space, fitness(space), path, generations=1)
        assert (again, path.read_bytes()) == (best, content)
        assert scored == batches - max(0, content[:size].count(b"\n") - 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.jsonl", "whole.jsonl"]


def test_damage_before_the_last_line_names_the_line(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space, path = toy(), tmp_path / "j"
    run(space, fitness(space), path)
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines[:-2], start=1):
        for damage in (
            line.replace(b"1", b"7", 1),
            line[:10],
            b"",
            b"\0" * len(line),
            line[:5] + b"\xff" + line[6:],
            b"[]\n",
        ):
            if damage == line:
                continue
            broken = b"".join((*lines[: number - 1], damage, *lines[number:]))
            path.write_bytes(broken)
            with pytest.raises((JournalError, SchemaError), match=f"line {number} |version"):
                Journal(path, seed=3, fingerprint=PRINT)
            assert path.read_bytes() == broken


def test_a_damaged_last_line_is_scored_again(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space, path = toy(), tmp_path / "j"
    best, batches = run(space, fitness(space), path)
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"\0" * 8 + b"\n")
    with Journal(path, seed=3, fingerprint=PRINT) as journal:
        assert journal.batches == batches - 1
    assert run(space, fitness(space), path) == (best, 1)
    assert path.read_bytes() == content


@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_scores_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, scores: list[float]) -> None:
    path = tmp_path_factory.mktemp("scores") / "j"
    batch = Batch(1, 0, 1, (Profile(("u",), ("3",)),) * len(scores))
    with Journal(path, seed=0, fingerprint={}) as journal:
        journal.append(batch, scores)
    json.loads(path.read_text().splitlines()[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    with Journal(path, seed=0, fingerprint={}) as journal:
        again = journal.replay(batch) or []
        assert journal.replay(batch) is None
    assert len(again) == len(scores)
    for a, b in zip(again, scores, strict=True):
        assert (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


@pytest.mark.parametrize(
    ("seed", "fingerprint", "message"),
    [
        (4, PRINT, "seed = 3, this run has 4"),
        (3, {**PRINT, "model": "other"}, "model = 'toy', this run has 'other'"),
        (3, {"model": "toy"}, r"tokens = \[1, 2\], this run has None"),
        (3, {**PRINT, "new": 1}, "new = None, this run has 1"),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, seed: int, fingerprint: dict[str, object], message: str
) -> None:
    path = tmp_path / "j"
    Journal(path, seed=3, fingerprint=PRINT).close()
    before = path.read_bytes()
    with pytest.raises(RunMismatch, match=message):
        Journal(path, seed=seed, fingerprint=fingerprint)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"journal":2,"something":"else"}\n')
    with pytest.raises(SchemaError, match="version 2, this evopress reads 1; update evopress"):
        Journal(path, seed=3, fingerprint=PRINT)


@pytest.mark.parametrize("content", ["notes", "notes\n", "{}\n", "3\n", "\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "j"
    path.write_text(content)
    with pytest.raises(JournalError, match=r"line 1 of .* is no journal header"):
        Journal(path, seed=3, fingerprint=PRINT)
    assert path.read_text() == content


def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be opened"):
        Journal(tmp_path / "missing" / "j", seed=3, fingerprint=PRINT)
    with pytest.raises(RunError, match="cannot be opened"):
        Journal(tmp_path, seed=3, fingerprint=PRINT)


def test_another_search_does_not_replay(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space, path = toy(), tmp_path / "j"
    run(space, fitness(space), path)
    other = toy(sizes=(1,) * 8)
    with pytest.raises(RunMismatch, match=r"line 2 of .* records other profiles"):
        run(other, fitness(other), path)
    with pytest.raises(RunMismatch, match="records 6 batches more"):
        run(space, fitness(space), path, generations=1)


def test_every_batch_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    path, batch = tmp_path / "j", Batch(1, 0, 1, (Profile(("u",), ("3",)),))
    with Journal(path, seed=0, fingerprint={}) as journal:
        for _ in range(2):
            synced.clear()
            journal.append(batch, [1.0])
            assert synced == [path.stat().st_size]


def test_appending_waits_for_the_replay(tmp_path: Path) -> None:
    batch = Batch(1, 0, 1, (Profile(("u",), ("3",)),))
    with Journal(tmp_path / "j", seed=0, fingerprint={}) as journal:
        journal.append(batch, [1.0])
    with Journal(tmp_path / "j", seed=0, fingerprint={}) as journal, pytest.raises(ValueError, match="1 recorded"):
        journal.append(batch, [1.0])


def test_a_batch_is_on_disk_before_the_strategy_hears_of_it(toy: Toy, tmp_path: Path) -> None:
    """A kill inside the second evaluation leaves the first batch."""
    calls = []

    def evaluate(profiles: object, tokens: int) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [1.0] * 4

    with pytest.raises(KeyboardInterrupt):
        run(toy(), evaluate, tmp_path / "j")
    with Journal(tmp_path / "j", seed=3, fingerprint=PRINT) as journal:
        assert (journal.batches, journal.remaining) == (1, 1)
