"""Greedy does what its one line says, and never more work than it has announced."""

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ScheduleError
from evopress.search import Batch, Effort, Evaluate, Greedy, run_search
from evopress.search.baselines.greedy import most_scores

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]


def rough(seed: int) -> Callable[[Profile], float]:
    """A fitness without any structure: a random number for each profile."""
    return lambda profile: Random(f"{seed}/{profile.levels}").random()


def run(search: Greedy, score: Callable[[Profile], float]) -> list[Batch]:
    seen: list[Batch] = []
    run_search(search, lambda ps, tokens: list(map(score, ps)), on_batch=lambda result: seen.append(result.batch))
    return seen


def greedy_drops(space: SearchSpace, score: Callable[[Profile], float]) -> list[str]:
    """The reference: drop what hurts least, one after another; kinds that have dropped enough are left alone."""
    dropped: list[str] = []

    def profile(names: Sequence[str]) -> Profile:
        return Profile(space.names, tuple("drop" if name in names else "keep" for name in space.names))

    while not space.fits(profile(dropped)):
        levels = space.encode(profile(dropped))
        costs = [sum(space.costs[unit][levels[unit]] for unit in units) for units, _ in space.limits]
        open_ = [units for (units, most), cost in zip(space.limits, costs, strict=True) if cost > most]
        names = [space.names[unit] for units in open_ for unit in units if len(space.costs[unit]) > 1]
        dropped.append(min((n for n in names if n not in dropped), key=lambda name: score(profile([*dropped, name]))))
    return dropped


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 9, "k": 4, "kind": "block"},
        {"blocks": 10, "k": 2, "kind": "pair", "protected": ["2", "8"]},
        {"blocks": 6, "k": 3, "weights": (4, 4), "protected": ["1.mlp"]},
        {"blocks": 6, "k": 3, "weights": (4, 4), "exchange": "any"},
    ],
    ids=["block", "pair", "sublayer", "any"],
)
@pytest.mark.parametrize("seed", range(5))
def test_depth_equals_the_reference(drops: Toy, options: dict[str, object], seed: int) -> None:
    space, score = drops(**options), rough(seed)
    search = Greedy(space, tokens=7)
    batches = run(search, score)
    expected = greedy_drops(space, score)
    assert {name for name, level in search.best.items() if level == "drop"} == set(expected)
    assert len(batches) == len(expected) + 1
    assert [batch.generation for batch in batches] == list(range(len(batches)))
    assert batches[-1].profiles == (search.best,)
    assert search.score == score(search.best)
    assert {batch.tokens for batch in batches} == {7}


def test_the_effort_of_depth_is_exact(drops: Toy) -> None:
    search = Greedy(drops(blocks=12, k=5, kind="block"), tokens=3)
    announced = search.effort
    assert announced == Effort((12 + 11 + 10 + 9 + 8) + 5 + 1, 3)
    assert sum(len(batch.profiles) for batch in run(search, rough(0))) == announced.profiles


@pytest.mark.parametrize("kind", ["spaces", "depths", "sparsities"])
@given(data=st.data(), seed=st.integers(0, 10**6), per_round=st.integers(1, 5))
def test_the_budget_and_the_announced_effort_hold(
    request: pytest.FixtureRequest, kind: str, data: st.DataObject, seed: int, per_round: int
) -> None:
    space = data.draw(request.getfixturevalue(kind))
    start = space.decode([data.draw(st.integers(0, len(costs) - 1)) for costs in space.costs])
    search = Greedy(space, tokens=1, start=data.draw(st.sampled_from([None, start])), per_round=per_round)
    assert space.fits(search.best)
    used = sum(len(batch.profiles) for batch in run(search, rough(seed)))
    assert space.fits(search.best)
    assert used <= search.effort.profiles


@given(data=st.data(), seed=st.integers(0, 10**6), per_round=st.integers(1, 5))
def test_equal_steps_meet_the_budget_exactly(
    sparsities: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int, per_round: int
) -> None:
    space = data.draw(sparsities)
    search = Greedy(space, tokens=1, per_round=per_round)
    run(search, rough(seed))
    assert space.cost(search.best) == space.budget


@pytest.mark.parametrize(
    ("small_lowered", "large_lowered", "expected"),
    [
        (1.5, 2.0, ("3", "2")),  # a half for a weight, against a third
        (1.2, 2.0, ("2", "3")),
        (0.5, 0.4, ("3", "2")),  # both help: then the more helpful one, although the other helps more for a weight
    ],
)
def test_a_change_is_worth_what_it_costs(small_lowered: float, large_lowered: float, expected: tuple[str, ...]) -> None:
    sizes = {"small": 1, "large": 3}
    units = [Unit(name, 0, "u", n, (Level("2", 2 * n), Level("3", 3 * n))) for name, n in sizes.items()]
    search = Greedy(make_space(units, average="2.75", exchange="any"), tokens=1)
    score = {("3", "3"): 1.0, ("2", "3"): small_lowered, ("3", "2"): large_lowered}
    run(search, lambda profile: score[profile.levels])
    assert search.best.levels == expected


def test_what_the_last_step_freed_too_much_is_spent_where_it_helps() -> None:
    levels = (Level("low", 1), Level("high", 2))
    units = [Unit("big", 0, "u", 9, (Level("low", 9), Level("high", 18)))]
    units += [Unit(name, 0, "u", 1, levels) for name in "abc"]
    space = SearchSpace(tuple(units), 15, ((0, 1, 2, 3),))
    gain = {"big": -100.0, "a": 0.1, "b": 0.3, "c": -0.5}  # of being high; lowering `big` is best at once

    def score(profile: Profile) -> float:
        return -sum(gain[name] for name, level in profile.items() if level == "high")

    start = space.decode((1, 0, 0, 0))
    search = Greedy(space, tokens=1, start=start)
    batches = run(search, score)
    assert search.best.levels == ("low", "high", "high", "low"), "c would fit but does not help"
    assert [len(batch.profiles) for batch in batches] == [2, 4, 3, 2, 1]
    assert search.effort.profiles >= 12


def test_a_start_that_fits_exactly_is_only_scored(sparse: Toy) -> None:
    space = sparse()
    search = Greedy(space, tokens=1, start=space.uniform())
    assert search.effort.profiles == 1
    (batch,) = run(search, rough(0))
    assert batch.profiles == (space.uniform(),)


def test_several_changes_a_round(drops: Toy, fitness: Fitness) -> None:
    """With an additive fitness a round's order is right, so fewer rounds lead to the same profile."""
    space = drops(blocks=12, k=6, kind="block")
    evaluate = fitness(space)
    ends = [run_search(Greedy(space, tokens=1, per_round=m), evaluate) for m in (1, 4, 100)]
    assert ends[0] == ends[1] == ends[2]
    batches = run(Greedy(space, tokens=1, per_round=4), lambda profile: evaluate([profile], 1)[0])
    assert [len(batch.profiles) for batch in batches] == [13, 9, 1]


def test_ties_go_to_the_first(drops: Toy) -> None:
    search = Greedy(drops(blocks=6, k=2, kind="block"), tokens=1)
    run(search, lambda profile: 1.0)
    assert search.best.levels == ("drop", "drop", "keep", "keep", "keep", "keep")


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_rank_last(drops: Toy, broken: float) -> None:
    space = drops(blocks=5, k=2, kind="block")
    search = Greedy(space, tokens=1)
    run(search, lambda profile: broken if profile.levels[0] == "drop" or "drop" not in profile.levels else 5.0)
    assert search.best.levels == ("keep", "drop", "drop", "keep", "keep")


def test_work_beyond_the_limit_is_refused(drops: Toy, toy: Toy) -> None:
    with pytest.raises(ScheduleError, match=r"greedy takes up to 56 scores, the limit is 55; .* more than 1 changes"):
        Greedy(drops(blocks=12, k=5, kind="block"), tokens=1, limit=55)
    big = toy(sizes=(1,) * 210, average="3", bits=(2, 3, 4, 5, 6))
    assert most_scores(big, (4,) * 210) > 100_000
    assert most_scores(big, (4,) * 210, per_round=30) < 6000
    with pytest.raises(ScheduleError, match="0 changes a round"):
        Greedy(big, tokens=1, per_round=0)
