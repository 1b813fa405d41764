"""Algorithm 1, rule by rule."""

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, ConfigError, ScheduleError
from evopress.search import (
    Batch,
    BatchResult,
    BruteForce,
    Evaluate,
    Evolution,
    Mutation,
    Schedule,
    Stage,
    bands,
    free_switches,
    run_search,
)
from evopress.search.moves.mutation import equal_switches, mixed
from evopress.search.starts.drawn import default_starts

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]
ONE = (Stage(1, 1),)


def evolve(space: SearchSpace, seed: int = 0, **options: object) -> Evolution:
    names = ("generations", "offspring", "stages", "start_tokens")
    asked = {"generations": 5, "offspring": 4, "stages": ONE} | {n: options.pop(n) for n in names if n in options}
    return Evolution(space, Random(seed), Schedule(**asked), **options)  # type: ignore[arg-type]


def batches(search: Evolution, evaluate: Evaluate) -> list[BatchResult]:
    seen: list[BatchResult] = []
    run_search(search, evaluate, on_batch=seen.append)
    return seen


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    seed=st.integers(0, 10**6),
    mutate=st.sampled_from([equal_switches, free_switches, bands, mixed(0.5)]),
)
def test_no_batch_holds_duplicates_or_breaks_the_budget(
    spaces: st.SearchStrategy[SearchSpace], fitness: Fitness, data: st.DataObject, seed: int, mutate: Mutation
) -> None:
    space = data.draw(spaces)
    search = evolve(space, seed, stages=(Stage(1, 2), Stage(2, 1)), mutate=mutate)
    parent = search.best
    for seen in batches(search, fitness(space)):
        profiles = seen.batch.profiles
        assert len(set(profiles)) == len(profiles)
        assert all(space.fits(profile) for profile in profiles)
        if seen.batch.generation and seen.batch.stage == 0:
            assert parent not in profiles
        if seen.accepted is not None:
            parent = seen.best


def test_exact_budget_where_steps_match(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(2, 2, 2, 2, 6, 6, 6, 6), average="2.75", exchange="size")
    for seen in batches(evolve(space), fitness(space)):
        assert {space.cost(profile) for profile in seen.batch.profiles} == {space.budget}


def test_the_parent_joins_the_last_stage_only_even_with_one_survivor(toy: Toy, fitness: Fitness) -> None:
    space = toy()
    search = evolve(space, stages=(Stage(1, 1), Stage(2, 1)))
    parent = search.best
    for seen in batches(search, fitness(space)):
        if seen.batch.stage == 0:
            assert parent not in seen.batch.profiles
            assert seen.accepted is None
        else:
            assert seen.batch.profiles[0] == parent
            assert len(seen.batch.profiles) == 2
            parent = seen.best


def test_in_a_single_stage_the_parent_joins_that_stage(toy: Toy, fitness: Fitness) -> None:
    search = evolve(toy(), generations=1)
    parent = search.best
    (seen,) = batches(search, fitness(search.space))
    assert seen.batch.profiles[0] == parent
    assert len(seen.batch.profiles) == 5


def test_stages_have_their_tokens_and_keep_their_survivors(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,) * 12)
    search = evolve(space, generations=1, offspring=10, stages=(Stage(3, 4), Stage(5, 2), Stage(7, 1)))
    seen = batches(search, fitness(space))
    assert [(s.batch.tokens, len(s.batch.profiles)) for s in seen] == [(3, 10), (5, 4), (7, 3)]
    scores = fitness(space)(seen[0].batch.profiles, 1)
    assert fitness(space)(seen[1].batch.profiles, 1) == sorted(scores)[:4]


def test_ties_go_to_the_parent(toy: Toy) -> None:
    search = evolve(toy())
    parent = search.best
    results = batches(search, lambda profiles, tokens: [1.0] * len(profiles))
    assert search.best == parent
    assert [seen.accepted for seen in results] == [False] * 5


def test_the_parent_is_scored_again(toy: Toy) -> None:
    """A lucky score does not protect a parent: it is worse than its offspring on the next minibatch and has to go."""
    search = evolve(toy(), generations=2)
    calls: list[int] = []

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        calls.append(1)
        return (
            [0.0 if i == 0 else 1.0 + i for i in range(len(profiles))] if len(calls) == 1 else [9.0, 4.0, 3.0, 2.0, 5.0]
        )

    results = batches(search, evaluate)
    assert [seen.accepted for seen in results] == [False, True]
    assert (search.best, search.score) == (results[1].batch.profiles[3], 2.0)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_scores_that_are_not_finite_never_win(toy: Toy, bad: float) -> None:
    search = evolve(toy(), generations=1, stages=(Stage(1, 2), Stage(1, 1)))
    first = search.ask()
    assert first is not None
    search.tell([bad, 2.0, bad, 1.0])
    second = search.ask()
    assert second is not None
    assert second.profiles[1:] == (first.profiles[3], first.profiles[1])
    search.tell([bad, bad, 7.0])
    assert (search.best, search.score, search.ask()) == (first.profiles[1], 7.0, None)


def test_if_no_score_is_finite_the_parent_stays(toy: Toy) -> None:
    search = evolve(toy())
    parent = search.best
    batches(search, lambda profiles, tokens: [math.nan] * len(profiles))
    assert search.best == parent
    assert math.isnan(search.score)


def test_fewer_profiles_than_offspring_is_no_endless_loop(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1, 1))  # (3,3) (2,4) (4,2) are all there is
    search = evolve(space, offspring=50)
    sizes = {len(seen.batch.profiles) for seen in batches(search, fitness(space))}
    assert max(sizes) <= 3
    assert not search.stopped


def test_no_other_profile_ends_with_a_message(toy: Toy, fitness: Fitness) -> None:
    space = toy(sizes=(1,))
    search = evolve(space)
    assert run_search(search, fitness(space)).levels == ("3",)
    assert "generation 1 found no profile besides its parent" in search.stopped


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_finds_the_optimum_that_brute_force_proves(toy: Toy, fitness: Fitness, seed: int, power: int) -> None:
    space = toy(sizes=(1, 2, 1, 3, 1, 2), average="3")
    evaluate = fitness(space, seed=seed, power=power)
    proof = BruteForce(space, tokens=1)
    run_search(proof, evaluate)
    search = evolve(space, seed, generations=60, offspring=16, stages=(Stage(1, 4), Stage(2, 1)), mutate=free_switches)
    run_search(search, evaluate)
    assert search.score == pytest.approx(proof.score)


def test_random_starts_are_scored_as_generation_0(toy: Toy, fitness: Fitness) -> None:
    space = toy(average="2.5")
    search = evolve(space, start=default_starts(space, Random(0), 7), start_tokens=99, generations=0)
    (seen,) = batches(search, fitness(space))
    assert (seen.batch.generation, seen.batch.tokens, len(seen.batch.profiles), seen.accepted) == (0, 99, 7, True)
    assert search.score == min(seen.scores)
    assert search.best == seen.batch.profiles[seen.scores.index(search.score)]


def test_given_starts(toy: Toy, fitness: Fitness) -> None:
    space = toy()
    good, bad = space.decode((0, 0, 1, 1, 2, 2)), space.decode((2, 2, 1, 1, 0, 0))
    assert evolve(space, generations=0, start=[bad, bad]).ask() is None
    search = evolve(space, generations=0, start=[bad, good])
    asked = search.ask()
    assert asked == Batch(0, 0, 1, (bad, good))
    search.tell([2.0, 1.0])
    assert search.best == good
    with pytest.raises(BudgetError, match="above the budget"):
        evolve(space, start=[space.decode((2,) * 6)])
    with pytest.raises(ConfigError, match="empty"):
        evolve(space, start=[])


def test_a_mutation_that_repeats_itself_or_the_parent(toy: Toy) -> None:
    answers = [(1,) * 6, (0, 1, 1, 1, 1, 2), None]
    batch = evolve(toy(), mutate=lambda space, parent, rng: rng.choice(answers)).ask()
    assert batch is not None
    assert [profile.levels for profile in batch.profiles] == [("3",) * 6, ("2", "3", "3", "3", "3", "4")]


def test_a_mutation_that_breaks_the_budget_is_found_out(toy: Toy) -> None:
    with pytest.raises(BudgetError, match="a mutation made a profile that costs 24"):
        evolve(toy(), mutate=lambda space, parent, rng: (2,) * 6).ask()


def test_bad_schedules_are_refused_before_anything_is_scored(toy: Toy) -> None:
    with pytest.raises(ScheduleError):
        evolve(toy(), stages=(Stage(1, 2),))


def test_ask_and_tell_take_turns(toy: Toy) -> None:
    search = evolve(toy())
    with pytest.raises(ValueError, match="call ask"):
        search.tell([1.0])
    assert search.ask() is search.ask()
    with pytest.raises(ValueError, match="1 scores for 5 profiles"):
        search.tell([1.0])
