"""A profile of one budget, made to fit another."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search.conftest import drop_space, random_spaces, toy_space

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.errors import ProfileError
from evopress.search.moves.draft import Draft
from evopress.search.starts.drawn import random_start
from evopress.search.starts.refit import refit


@given(random_spaces(), st.integers(0, 9))
def test_every_proposal_fits_and_leaves_no_step_unspent(space: SearchSpace, seed: int) -> None:
    rng = Random(seed)
    old = space.decode([rng.randrange(len(unit.levels)) for unit in space.units])
    found = refit(space, old, rng, count=3)
    assert 1 <= len(found) <= 6
    assert len(set(found)) == len(found)
    assert (found[0] == old) >= space.fits(old)
    for profile in found:
        space.validate(profile)
        if profile == old:
            continue
        for group, most in space.limits:
            draft = Draft(space, space.encode(profile))
            draft.narrow(group, most)
            assert not draft.affordable(group)


def test_a_profile_of_this_budget_is_its_own_first_proposal() -> None:
    space = toy_space((1, 2, 3, 4, 5, 6))
    old = space.decode(random_start(space, Random(1)))
    assert refit(space, old, Random(0))[0] == old


def test_neighbours_of_a_smaller_budget_only_go_down() -> None:
    rich, poor = toy_space(average="3.5"), toy_space(average="3")
    old = rich.decode(random_start(rich, Random(3)))
    for profile in refit(poor, old, Random(0))[2:]:
        assert all(new <= was for new, was in zip(poor.encode(profile), rich.encode(old), strict=True))


def test_dropped_sublayers_stay_dropped_and_which_others_go_is_drawn() -> None:
    space = drop_space()
    keep = Profile(space.names, tuple(unit.levels[-1].name for unit in space.units))
    drawn = refit(space, keep, Random(0))
    assert len(drawn) > 3  # not the first blocks only, whatever they do


def test_levels_are_taken_by_name_or_the_nearest_number() -> None:
    units = [Unit(f"u{i}", i, "u", 4, tuple(Level(str(b), 4 * b) for b in (2, 4, 8))) for i in range(2)]
    space = make_space(units, average=5, exchange="any")
    assert refit(space, Profile.of({"u0": "5", "u1": "6"}), Random(0), count=0)[0].levels == ("4", "4")
    with pytest.raises(ProfileError, match="unknown level 'dense'"):
        refit(space, Profile.of({"u0": "dense", "u1": "4"}), Random(0))
    with pytest.raises(ProfileError, match="unknown units"):
        refit(space, Profile.of({"u0": "2", "u9": "4"}), Random(0))
