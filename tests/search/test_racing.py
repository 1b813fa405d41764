"""Races: clear cases end early, unclear ones keep the parent, and the whole is replayed like any search."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search import Evaluate, Evolution, Journal, Race, Schedule, Stage, Stopper, run_search
from evopress.search.racing import Track
from evopress.search.stopping import Limits
from evopress.search.types import BatchResult

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]


def run(race: Race, parts: Sequence[Sequence[float]]) -> Track:
    """A race in which runner i has the score parts[p][i] in part p."""
    track = Track(race, len(parts[0]) - 1)
    for part in parts:
        if track.over:
            break
        track.add([part[runner] for runner in track.running])
    return track


def test_a_clear_winner_ends_the_race() -> None:
    track = run(Race(parts=8, least=3), [[1.0 + part, 0.5 + part + 0.01 * (part % 2)] for part in range(8)])
    assert track.winner == 1
    assert len(track.scores[1]) == 3


def test_clear_losers_stop_and_the_parent_stays_when_none_is_left() -> None:
    parts = [[1.0, 1.5 + 0.01 * part, 1.7 - 0.01 * part] for part in range(8)]
    track = run(Race(parts=8, least=3), parts)
    assert track.running == [0]
    assert track.winner == 0
    assert len(track.scores[0]) == 3


def test_a_child_that_another_child_beats_stops() -> None:
    parts = [[1.0 + 0.4 * (-1) ** part, 1.0, 1.1 + 0.001 * part] for part in range(8)]
    track = run(Race(parts=8, least=3), parts)
    assert len(track.scores[2]) == 3
    assert len(track.scores[1]) == 8


def test_a_small_lead_is_no_evidence() -> None:
    parts = [[1.0, 0.99 + 0.5 * (-1) ** part] for part in range(8)]
    assert run(Race(parts=8), parts).winner == 0
    assert run(Race(parts=8, evidence=0.0), parts).winner == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_who_is_not_finite_never_wins(bad: float) -> None:
    assert run(Race(), [[1.0, bad, 0.5 + 0.01 * part] for part in range(8)]).winner == 2
    assert run(Race(), [[1.0, bad]] * 8).winner == 0
    assert run(Race(), [[bad, 2.0 + 0.01 * part] for part in range(8)]).winner == 1


@given(seed=st.integers(0, 10**6), gap=st.sampled_from([-1.0, 0.0, 1.0]), children=st.integers(1, 4))
def test_shared_noise_changes_nothing(seed: int, gap: float, children: int) -> None:
    """What a part costs everyone cancels: only differences decide."""
    rng = Random(seed)
    own = [[rng.gauss(gap if runner else 0.0, 1.0) for runner in range(children + 1)] for _ in range(8)]
    shared = [[score + 1024.0 * part for score in scores] for part, scores in enumerate(own)]
    one, other = run(Race(), own), run(Race(), shared)
    assert (one.winner, one.running) == (other.winner, other.running)


def noisy(evaluate: Evaluate, seed: int, spread: float = 30.0) -> Evaluate:
    """Scores with noise of each profile's own that shrinks with tokens, and a shared part."""
    rng = Random(seed)

    def score(profiles: Sequence[Profile], tokens: int) -> list[float]:
        offset = rng.gauss(0, 1)
        return [s + offset + rng.gauss(0, spread / math.sqrt(tokens)) for s in evaluate(profiles, tokens)]

    return score


def search(space: SearchSpace, race: Race | None, seed: int = 0, generations: int = 30) -> Evolution:
    stages = (Stage(64, 2), Stage(1024, 1))
    return Evolution(space, Random(seed), Schedule(generations=generations, offspring=6, stages=stages), race=race)


def test_a_race_never_takes_more_than_its_stage(toy: Toy, fitness: Fitness) -> None:
    space, seen = toy(sizes=(1,) * 20), []
    run_search(search(space, Race()), noisy(fitness(space), 1), on_batch=seen.append)
    of: dict[int, list[BatchResult]] = {}
    for result in seen:
        of.setdefault(result.batch.generation, []).append(result)
    spent = [sum(len(r.batch.profiles) * r.batch.tokens for r in results[1:]) for results in of.values()]
    assert max(spent) <= 3 * 1024
    assert fmean(spent) < 0.9 * 3 * 1024
    assert all([r.batch.stage for r in results] == list(range(len(results))) for results in of.values())
    assert all(
        [r.accepted is None for r in results] == [True] * (len(results) - 1) + [False] for results in of.values()
    )


def test_fewer_steps_are_steps_back(toy: Toy, fitness: Fitness) -> None:
    """Of the parents that a search takes on, a strict race takes fewer that are truly worse."""
    worse = {}
    strict = Race(clear=3.0, evidence=2.0)
    for race in (None, strict):
        back, taken = 0, 0
        for seed in range(12):
            space = toy(sizes=(1,) * 20)
            truth = fitness(space, seed)
            bests: list[float] = []

            def watch(result: BatchResult, truth: Evaluate = truth, bests: list[float] = bests) -> None:
                if result.accepted:
                    bests.extend(truth([result.best], 1))

            run_search(search(space, race, seed), noisy(truth, seed), on_batch=watch)
            taken += len(bests)
            back += sum(after > before for before, after in pairwise(bests))
        worse[race] = back / taken
    assert worse[strict] < 0.7 * worse[None]


def test_a_resumed_race_is_the_uninterrupted_one(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space = toy(sizes=(1,) * 12)

    def go(name: str, batches: int | None) -> bytes:
        calls = 0
        with Journal(tmp_path / name, seed=0, fingerprint={}) as journal:
            evaluate = noisy(fitness(space), 3)
            for _ in range(journal.batches):  # the noise of what is replayed was drawn
                evaluate([space.uniform()] * counts[_], 1024)

            def counted(profiles: Sequence[Profile], tokens: int) -> list[float]:
                nonlocal calls
                calls += 1
                if calls == batches:
                    raise KeyboardInterrupt
                return evaluate(profiles, tokens)

            with suppress(KeyboardInterrupt):
                run_search(search(space, Race(), generations=4), counted, journal)
        return (tmp_path / name).read_bytes()

    counts: list[int] = []
    whole = go("whole", None)
    with Journal(tmp_path / "whole", seed=0, fingerprint={}) as journal:
        run_search(
            search(space, Race(), generations=4),
            lambda profiles, tokens: [],
            journal,
            on_batch=lambda result: counts.append(len(result.batch.profiles)),
        )
    for batches in range(1, len(counts), 5):
        name = f"part{batches}"
        go(name, batches)
        assert go(name, None) == whole


class Text:
    """Noise that belongs to profile and text: the same profile on the same part has the same score."""

    def __init__(self, truth: Evaluate, spread: float = 1.0) -> None:
        self.truth, self.spread, self.calls = truth, spread, 0
        self.scored: list[tuple[int, Profile]] = []

    def __call__(self, profiles: Sequence[Profile], tokens: int) -> list[float]:
        self.calls += 1
        return self._score(profiles, tokens, f"fresh {self.calls}")

    def reread(self, profiles: Sequence[Profile], tokens: int, part: int) -> list[float]:
        self.calls += 1
        self.scored += [(part, profile) for profile in profiles]
        return self._score(profiles, tokens, f"part {part}")

    def _score(self, profiles: Sequence[Profile], tokens: int, text: str) -> list[float]:
        noise = [Random(f"{text} {profile.levels}").gauss(0, self.spread) for profile in profiles]
        return [score + own for score, own in zip(self.truth(profiles, tokens), noise, strict=True)]


def test_what_is_known_of_a_parent_is_never_scored_again(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,) * 20)
    text, seen = Text(fitness(space)), list[BatchResult]()
    run_search(search(space, Race(reuse=True), generations=40), text, on_batch=seen.append)
    assert len(set(text.scored)) == len(text.scored)
    kept = [result for result in seen if result.accepted is False]
    assert len(kept) > 5
    without, plain = Text(fitness(space)), list[BatchResult]()
    run_search(search(space, Race(), generations=40), without, on_batch=plain.append)

    def spent(results: list[BatchResult]) -> float:
        return fmean(len(result.batch.profiles) for result in results if result.batch.stage)

    assert spent(seen) < spent(plain)


def test_a_new_parent_is_scored_on_text_that_did_not_choose_it(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,) * 20)
    text, seen = Text(fitness(space)), list[BatchResult]()
    run_search(search(space, Race(reuse=True), generations=25), text, on_batch=seen.append)
    parts: set[int] = set()
    own: set[int] = set()
    for result in (result for result in seen if result.batch.stage):
        assert result.batch.part is not None
        own.add(result.batch.part)
        if result.accepted:
            assert not parts & own
            parts |= own
            own = set()
    assert len(parts) > 8


def test_reuse_needs_an_evaluator_that_can_go_back(toy: Toy, fitness: Fitness) -> None:
    space = toy()
    with pytest.raises(ConfigError, match=r"Race\(reuse=False\)"):
        run_search(search(space, Race(reuse=True)), fitness(space))


def test_a_resumed_race_reuses_the_same_scores(toy: Toy, fitness: Fitness, tmp_path: Path) -> None:
    space = toy(sizes=(1,) * 12)

    def go(name: str, limit: int) -> bytes:
        text = Text(fitness(space))
        with Journal(tmp_path / name, seed=0, fingerprint={}) as journal:
            text.calls = journal.batches
            until = Stopper(Limits(tokens=limit))
            run_search(search(space, Race(reuse=True), generations=8), text, journal, stopper=until)
        return (tmp_path / name).read_bytes()

    whole = go("whole", 10**9)
    assert whole.count(b'"part"') > 10
    for limit in (3000, 9000):
        assert whole.startswith(go(f"part{limit}", limit))
        assert go(f"part{limit}", 10**9) == whole


def test_a_limit_does_not_end_a_search_in_the_middle_of_a_race(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,) * 12)
    ours = Evolution(space, Random(0), Schedule(generations=9, offspring=3, stages=(Stage(64, 1),)), race=Race())
    seen: list[BatchResult] = []
    run_search(ours, noisy(fitness(space), 0), on_batch=seen.append, stopper=Stopper(Limits(tokens=300)))
    assert seen[-1].accepted is not None


@pytest.mark.parametrize(
    ("rules", "said"), [({"parts": 2}, "must be 2 to 2"), ({"least": 1}, "2 to 8"), ({"clear": -1.0}, "negative")]
)
def test_rules_that_make_no_sense(rules: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Race(**rules)  # type: ignore[arg-type]


def test_a_search_ends_where_nothing_is_left_to_score(toy: Toy, fitness: Fitness) -> None:
    """A stage, a race, and a space so small that all neighbours of the parent are known soon."""
    space = toy(sizes=(1, 1))
    small = Evolution(
        space, Random(0), Schedule(generations=10**6, offspring=2, stages=(Stage(64, 1),)), race=Race(reuse=True)
    )
    run_search(small, Text(fitness(space)))
    assert "known to be no better" in small.stopped
