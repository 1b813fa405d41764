"""A superset that helps is found where there is one, and none where drops only harm."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from evopress.analysis import (
    Supersets,
    Turns,
    find_supersets,
    profile_that_drops,
    random_profiles,
    rescore,
    superset_table,
)
from evopress.analysis.supersets import _Search
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError, ProfileError, ScheduleError
from evopress.search import Evaluate, Schedule, Stage

Make = Callable[..., SearchSpace]
Exact = Callable[[Callable[[Profile], float]], Evaluate]
TURNS: dict[str, Any] = {"change": 1, "rounds": 1, "offspring": 6, "stages": (Stage(4, 2), Stage(8, 1))}


def settings(token_limit: int = 3000, **other: int) -> dict[str, Any]:
    """What `find_supersets` is told beside space and profiles."""
    return {"turns": Turns(**TURNS | other), "token_limit": token_limit, "tokens": 16}


def harm(profile: Profile) -> float:
    """Every drop harms, later blocks less."""
    return sum(1 / (1 + int(name.split(".")[0])) for name, level in profile.items() if level == "drop")


def entangled(profile: Profile) -> float:
    """An MLP that is kept without the attention of its block does great harm; the more so in later blocks."""
    alone = sum(
        5.0 + int(name.split(".")[0])
        for name, level in profile.items()
        if name.endswith("mlp") and level == "keep" and profile[name.replace("mlp", "attn")] == "drop"
    )
    return harm(profile) + alone


def other_sets(space: SearchSpace, profile: Profile, level: str) -> Iterator[Profile]:
    """All profiles in which one attention and one MLP moved away from `level`."""
    attention, mlp = ([n for n in space.names[kind::2] if profile[n] == level] for kind in (0, 1))
    for moved in ({a, b} for a in attention for b in mlp):
        yield profile_that_drops(space, [n for n, now in profile.items() if (now == "drop") != (n in moved)])


def test_finds_the_best_superset_and_the_worst_subset_of_that(drops: Make, exact: Exact) -> None:
    space = drops(blocks=8)
    base = profile_that_drops(space, ["2.attn", "2.mlp", "5.attn", "1.mlp"])
    found = find_supersets(space, exact(entangled), Random(0), [base], **settings())
    best = min(map(entangled, other_sets(space, base, "keep")))
    assert found.nested == 2
    assert found.better == found.pairs
    around, inside = sorted(found.pairs, key=lambda pair: pair.fewer_score)
    assert (around.fewer_score, around.more_score) == pytest.approx((entangled(base), best))
    worst = max(map(entangled, other_sets(space, profile_that_drops(space, inside.more), "drop")))
    assert (inside.fewer_score, inside.more_score) == pytest.approx((worst, best))
    assert worst > entangled(base) > best


def test_another_round_widens_the_gap(drops: Make, exact: Exact) -> None:
    space = drops(blocks=8)
    base = profile_that_drops(space, ["0.attn", "2.attn", "6.mlp", "7.mlp"])
    first = find_supersets(space, exact(entangled), Random(0), [base], **settings(6000)).pairs[0]
    last = find_supersets(space, exact(entangled), Random(0), [base], **settings(6000, rounds=2)).pairs[0]
    assert last.gain > first.gain
    best = min(map(entangled, other_sets(space, profile_that_drops(space, last.fewer), "keep")))
    worst = max(map(entangled, other_sets(space, profile_that_drops(space, last.more), "drop")))
    assert (last.fewer_score, last.more_score) == pytest.approx((worst, best))  # neither alone can be improved


def test_a_chain_never_loses_what_it_had(drops: Make, exact: Exact) -> None:
    """However little each search looks at: one generation of two offspring."""
    space = drops(blocks=8)
    stages = (Stage(1, 1),)
    schedule = Schedule(generations=1, offspring=2, stages=stages)
    turns = Turns(change=2, rounds=3, offspring=2, stages=stages)
    for seed in range(10):
        (base,) = random_profiles(space, 1, Random(seed))
        search = _Search(space, exact(entangled), Random(seed), schedule)
        chain = [space.encode(base), *search.chain(space.encode(base), turns)]
        assert len(chain) == 7
        changes = [b - a for a, b in pairwise(entangled(space.decode(levels)) for levels in chain)]
        gaps = [change if at % 2 else -change for at, change in enumerate(changes)]
        assert gaps == sorted(gaps)


def test_pairs_are_nested_and_scored_as_what_they_name(drops: Make, exact: Exact) -> None:
    space = drops(blocks=8)
    bases = random_profiles(space, 3, Random(1))
    found = find_supersets(space, exact(entangled), Random(0), bases, **settings())
    assert found.nested >= 3
    assert [pair.gain for pair in found.pairs] == sorted((pair.gain for pair in found.pairs), reverse=True)
    for pair in found.pairs:
        assert set(pair.fewer) < set(pair.more)
        assert pair.fewer_score == entangled(profile_that_drops(space, pair.fewer))
        assert pair.more_score == entangled(profile_that_drops(space, pair.more))


def test_finds_none_where_every_drop_harms(drops: Make, exact: Exact) -> None:
    space = drops()
    found = find_supersets(space, exact(harm), Random(0), random_profiles(space, 2, Random(1)), **settings())
    assert found.nested
    assert found.better == ()


@pytest.mark.parametrize("limit", [700, 1000, 5000])
def test_takes_no_more_tokens_than_allowed(drops: Make, limit: int) -> None:
    space, spent = drops(blocks=12, k=4), 0

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        nonlocal spent
        spent += len(profiles) * tokens
        return [entangled(profile) for profile in profiles]

    found = find_supersets(space, evaluate, Random(0), random_profiles(space, 2, Random(1)), **settings(limit))
    assert limit // 2 < spent == found.token_total <= limit


def test_protected_units_stay_and_each_kind_keeps_one(drops: Make, exact: Exact) -> None:
    space = drops(blocks=5, protected=["0.attn", "0.mlp", "1.mlp"])
    base = profile_that_drops(space, ["1.attn", "2.attn", "2.mlp", "3.mlp"])
    found = find_supersets(space, exact(harm), Random(0), [base], **settings(change=5))
    # the last but one attention is dropped, and all but one of each kind taken back; the last MLP stays as it is
    assert {(2, 5), (4, 5)} <= {(len(pair.fewer), len(pair.more)) for pair in found.pairs}
    for pair in found.pairs:
        assert not {"0.attn", "0.mlp", "1.mlp", "4.mlp"} & {*pair.fewer, *pair.more}
        assert {name.split(".")[1] for name in pair.fewer} == {"attn", "mlp"}


def test_scores_that_are_not_finite_make_no_pairs(drops: Make, exact: Exact) -> None:
    space = drops()
    (base,) = random_profiles(space, 1, Random(1))
    evaluate = exact(lambda p: math.nan if p == base else entangled(p))
    found = find_supersets(space, evaluate, Random(0), [base], **settings())
    (pair,) = found.pairs
    assert (len(pair.fewer), len(pair.more), found.nested) == (4, 6, 1)
    assert profile_that_drops(space, pair.fewer) != base


def test_rescoring_keeps_the_pairs_and_orders_them_anew(drops: Make, exact: Exact) -> None:
    space = drops(blocks=8)
    found = find_supersets(space, exact(entangled), Random(0), random_profiles(space, 2, Random(1)), **settings())
    again = rescore(space, found, exact(lambda p: -entangled(p)), 32)
    assert {(pair.fewer, pair.more) for pair in again.pairs} == {(pair.fewer, pair.more) for pair in found.pairs}
    assert [pair.gain for pair in again.pairs] == pytest.approx([-pair.gain for pair in reversed(found.pairs)])
    assert (again.tokens, again.nested) == (32, found.nested)
    assert again.token_total > found.token_total


def test_the_same_seed_gives_the_same_result(drops: Make, exact: Exact) -> None:
    def run() -> Supersets:
        space = drops(blocks=8)
        return find_supersets(space, exact(entangled), Random(3), random_profiles(space, 2, Random(1)), **settings())

    assert run() == run()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"change": 0}, ConfigError, "change is 0 and rounds 1"),
        ({"rounds": 0}, ConfigError, "change is 1 and rounds 0"),
        ({"token_limit": 100}, ScheduleError, "a limit of 100 tokens is too low; 2 searches need at least 192"),
        ({"offspring": 1}, ScheduleError, "more than the 1 offspring"),
    ],
)
def test_settings_that_cannot_work(
    drops: Make, exact: Exact, changed: dict[str, int], error: type[Exception], message: str
) -> None:
    space = drops()
    with pytest.raises(error, match=message):
        find_supersets(space, exact(harm), Random(0), random_profiles(space, 1, Random(0)), **settings(**changed))


def test_spaces_without_two_levels_or_without_a_choice(bits: Make, drops: Make, exact: Exact) -> None:
    space = bits()
    with pytest.raises(ConfigError, match="unit u0 has 4 levels; supersets are of units with two"):
        find_supersets(space, exact(harm), Random(0), [space.uniform()], **settings())
    with pytest.raises(ConfigError, match="there is no profile to start from"):
        find_supersets(space, exact(harm), Random(0), [], **settings())
    space = drops(blocks=2, k=1)
    with pytest.raises(ConfigError, match="no drops of the 1 profiles can change"):
        find_supersets(space, exact(harm), Random(0), random_profiles(space, 1, Random(0)), **settings())


def test_json_and_table(drops: Make, exact: Exact) -> None:
    space = drops(blocks=8)
    base = profile_that_drops(space, ["2.attn", "5.attn", "1.mlp", "3.mlp"])
    found = find_supersets(space, exact(entangled), Random(0), [base], **settings())
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["pairs"][0]["fewer"] == list(found.pairs[0].fewer)
    table = superset_table(found)
    assert len(table.rows) == len(found.pairs)
    for row, pair in zip(table.rows, found.pairs, strict=True):
        assert row[:2] == (str(len(pair.fewer)), str(len(pair.more)))
        assert row[4] == ("yes" if pair in found.better else "no")
        assert sorted(row[5].split(", ")) == sorted(set(pair.more) - set(pair.fewer))


def test_only_what_can_be_dropped_is_dropped(drops: Make) -> None:
    space = drops(protected=["0.mlp"])
    assert profile_that_drops(space, ["1.mlp"]).levels.count("drop") == 1
    for name in ("0.mlp", "9.mlp"):
        with pytest.raises(ProfileError, match=f"unit '{name}' cannot be dropped"):
            profile_that_drops(space, ["1.mlp", name])


def test_a_larger_change_is_made_in_each_kind(drops: Make, exact: Exact) -> None:
    space = drops(blocks=9, k=3)
    (base,) = random_profiles(space, 1, Random(0))
    found = find_supersets(space, exact(entangled), Random(0), [base], **settings(change=2))
    sizes = sorted((len(pair.fewer), len(pair.more)) for pair in found.pairs)
    assert set(sizes) == {(6, 10)}
    for names in {names for pair in found.pairs for names in (pair.fewer, pair.more)}:
        assert sum(name.endswith("attn") for name in names) == len(names) / 2
