"""The second round: a search on the polished model, whose result counts only where it is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from evopress import pipeline
from evopress.core.polish_record import PolishRecord, read_record, write_record
from evopress.core.profile import Profile
from evopress.errors import ConfigError
from evopress.polish.again import beside, first_profile
from evopress.run.directory import RunDirectory
from evopress.run.observer import Observer
from evopress.run.records import polish_record, read_profile
from evopress.settings.resolve import resolve
from evopress.steps.search import save
from evopress.steps.workspace import Workspace

Fresh = Callable[[], RunDirectory]


def opened(run: RunDirectory) -> Workspace:
    return Workspace(run, Observer())


def records(run: RunDirectory) -> tuple[PolishRecord, PolishRecord]:
    first, second = read_record(run.polished), read_record(run.again / "polished")
    assert first is not None
    assert second is not None
    return first, second


@pytest.fixture
def poor(fresh: Fresh) -> Fresh:
    """`poor()` is a run whose search ended at a profile that another one beats: units take turns at 2 and 4 bits."""

    def make() -> RunDirectory:
        workspace = opened(fresh())
        names = workspace.space.named
        save(workspace, Profile(names, tuple("24"[place % 2] for place in range(len(names)))), 1.0, 1, "a test")
        return workspace.run

    return make


def test_a_second_round_starts_from_what_was_learned_and_counts_where_it_is_better(poor: Fresh) -> None:
    run = poor()
    before = read_profile(run.profile)
    pipeline.polish(opened(run), "blocks", 2)
    first, second = records(run)
    assert second.profile != first.profile
    assert first_profile(run) == before
    workspace, found = opened(run), Profile.of(second.profile)
    assert min(second.watched.values()) < min(first.watched.values())
    assert read_profile(run.profile) == found
    assert workspace.space.fits(found)
    assert polish_record(run) == second
    evaluation = pipeline.evaluate(workspace)["profiles"]
    assert evaluation["polished"]["kl"] < evaluation["searched"]["kl"]
    assert evaluation["polished"]["bytes"] == evaluation["searched"]["bytes"]


def test_the_second_search_sees_the_learned_levels_where_there_are_some_and_the_others_beside_them(poor: Fresh) -> None:
    run = poor()
    pipeline.polish(opened(run), "blocks")
    workspace, record = opened(run), read_record(run.polished)
    assert record is not None
    first = Profile.of(record.profile)
    again, levels = beside(workspace, record, first), workspace.polished(first)
    assert levels is not None
    dense = {
        name: [source.dense(name, level, torch.float32) for source in (workspace.database, levels)]
        for name, level in first.items()
    }
    unit = next(name for name, (made, learned) in dense.items() if not torch.equal(made, learned))
    other = "4" if dict(first.items())[unit] == "2" else "2"
    with again.evaluator(again.splits.search, (again.measure,), 1) as evaluator:
        assert torch.equal(evaluator.assembly.tensor(unit, dict(first.items())[unit]), dense[unit][1])
        assert torch.equal(evaluator.assembly.tensor(unit, other), workspace.database.dense(unit, other, torch.float32))


def test_a_second_round_is_finished_to_the_same_bytes_and_not_done_twice(poor: Fresh) -> None:
    whole, broken = poor(), poor()
    pipeline.polish(opened(whole), "blocks", 2)
    pipeline.polish(opened(broken), "blocks")
    with pytest.raises(KeyboardInterrupt):
        pipeline.polish(Workspace(broken, Stop("generation")), "blocks", 2)
    with pytest.raises(KeyboardInterrupt):
        pipeline.polish(Workspace(broken, Stop("polish")), "blocks", 2)
    pipeline.polish(opened(broken), "blocks", 2)
    assert read_profile(broken.profile) == read_profile(whole.profile)
    assert records(broken) == records(whole)
    stamps = {path: path.stat().st_mtime_ns for path in broken.path.rglob("*") if path.suffix in (".json", ".jsonl")}
    del stamps[broken.timing]
    pipeline.polish(opened(broken), "blocks", 2)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_round_that_is_no_better_changes_nothing(poor: Fresh) -> None:
    run = poor()
    before = run.profile.read_bytes()
    pipeline.polish(opened(run), "blocks")
    first = read_record(run.polished)
    assert first is not None
    write_record(run.polished, replace(first, watched=dict(first.watched) | {"blocks": -1.0}))
    pipeline.polish(opened(run), "blocks", 2)
    assert run.profile.read_bytes() == before
    polished = opened(run).polished(read_profile(run.profile))
    assert polished is not None


def test_where_nothing_was_learned_there_is_no_second_round(fresh: Fresh) -> None:
    run = fresh()
    pipeline.polish(opened(run), "blocks")
    first = read_record(run.polished)
    assert first is not None
    write_record(run.polished, replace(first, result=None))
    pipeline.polish(opened(run), "blocks", 2)
    assert not run.again.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 3, "polish": "none"}, "--rounds 2 needs a polish"),
        ({"fraction": 0.25, "polish": "blocks"}, "--rounds 2 cannot be done"),
    ],
)
def test_what_cannot_be_searched_again_is_refused_in_one_line(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as found:
        resolve("model", rounds=2, **options)  # type: ignore[arg-type]
    assert "\n" not in str(found.value)


class Stop(Observer):
    """Ends the process, so to say, at the second report of a phase."""

    def __init__(self, phase: str) -> None:
        self.phase, self.left = phase, 2

    def progress(self, phase: str, done: float, total: float, detail: str = "") -> None:
        self._count(phase)

    def batch(self, *arguments: object) -> None:
        self._count("generation")

    def _count(self, phase: str) -> None:
        self.left -= phase == self.phase
        if not self.left:
            raise KeyboardInterrupt
