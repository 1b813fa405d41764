"""Random profiles meet the budget and come from all of the space."""

import math
from collections.abc import Callable, Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from evopress.analysis import random_profiles, worst
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace

Make = Callable[..., SearchSpace]


@given(seed=st.integers(0, 1000), groups=st.integers(1, 3))
def test_they_differ_and_spend_each_groups_share(bits: Make, seed: int, groups: int) -> None:
    space = bits(groups=groups)
    found = random_profiles(space, 6, Random(seed))
    assert len(set(found)) == 6
    for profile in found:
        levels = space.encode(profile)
        for group, share in zip(space.groups, space.shares, strict=True):
            assert sum(space.costs[unit][levels[unit]] for unit in group) == share


def test_an_integer_target_has_many_and_some_hold_levels_above_it(bits: Make) -> None:
    found = random_profiles(bits(), 50, Random(0))
    assert len(found) == 50
    assert {level for profile in found for level in profile.levels} == {"2", "3", "4", "5"}


def test_drops_are_exactly_k_of_each_kind(drops: Make) -> None:
    for profile in random_profiles(drops(k=2), 20, Random(0)):
        assert [profile.levels[kind::2].count("drop") for kind in (0, 1)] == [2, 2]


def test_a_small_space_gives_what_it_has(drops: Make) -> None:
    assert len(random_profiles(drops(blocks=3, k=1), 100, Random(0))) == 9


def test_the_worst_are_those_of_the_highest_finite_scores(bits: Make) -> None:
    profiles = random_profiles(bits(), 5, Random(0))
    asked = []

    def evaluate(given: Sequence[Profile], tokens: int) -> list[float]:
        asked.append((tuple(given), tokens))
        return [1.0, math.inf, 3.0, math.nan, 2.0]

    assert worst(evaluate, profiles, 2, tokens=64) == (profiles[2], profiles[4])
    assert worst(evaluate, profiles, 9, tokens=64) == (profiles[2], profiles[4], profiles[0])
    assert asked == [(profiles, 64)] * 2
