"""Where switches do not interact their sum predicts everything; where they do, the prediction decays."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from evopress.analysis import distance_table, explore, neighbour_table, profile_that_drops
from evopress.analysis.landscape import single_switches
from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search import Evaluate

Make = Callable[..., SearchSpace]
Exact = Callable[[Callable[[Profile], float]], Evaluate]


def linear(profile: Profile) -> float:
    """Unit i is worth i + 1 for each bit lost, exactly in binary."""
    return sum((i + 1) * (5 - int(level)) for i, level in enumerate(profile.levels)) / 8


def coupled(profile: Profile) -> float:
    """Neighbouring units that both lost bits multiply their harm."""
    lost = [5 - int(level) for level in profile.levels]
    return linear(profile) + sum((a * b) ** 2 for a, b in pairwise(lost)) * 4.0


def test_single_switches_are_all_pairs_of_equal_steps(bits: Make, drops: Make) -> None:
    assert len(single_switches(bits(units=6), (1,) * 6)) == 6 * 5
    assert single_switches(bits(units=4, groups=2), (3, 1, 0, 1)) == [(2, 0), (1, 3), (3, 1)]
    space = drops(blocks=6, k=2)
    found = single_switches(space, space.encode(profile_that_drops(space, ["0.attn", "1.attn", "2.mlp", "3.mlp"])))
    assert len(found) == 2 * 2 * 4
    assert all(space.units[up].role == space.units[down].role for up, down in found)


def test_a_linear_score_is_predicted_at_every_distance(bits: Make, exact: Exact) -> None:
    space = bits(units=40)
    profile = space.uniform()
    found = explore(space, exact(linear), Random(0), profile, tokens=8, limit=2000)
    assert (found.existing, len(found.neighbours), found.left_out) == (40 * 39, 40 * 39, 0)
    for switch in found.neighbours:
        assert switch.change == (int(switch.lowered[1:]) - int(switch.raised[1:])) / 8
    assert [switch.change for switch in found.neighbours] == sorted(switch.change for switch in found.neighbours)
    assert found.better == 0.5
    assert [at.switches for at in found.distances] == [1, 2, 4, 8, 16]
    for at in found.distances:
        assert at.offspring == 32
        assert at.predicted == pytest.approx(1)
        assert at.repeated == pytest.approx(1)


def test_offspring_are_as_far_as_they_say(bits: Make, exact: Exact) -> None:
    space, calls = bits(units=40), []

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        calls.append(list(profiles))
        return [linear(profile) for profile in profiles]

    explore(space, evaluate, Random(0), space.uniform(), tokens=8, limit=200, distances=(1, 3), offspring=10)
    assert [len(profiles) for profiles in calls] == [201, 21, 21]
    assert calls[1] == calls[2]
    parent, *children = calls[1]
    assert parent == space.uniform()
    assert len(set(children)) == 20
    moved = [sum(a != b for a, b in zip(parent.levels, child.levels, strict=True)) for child in children]
    assert moved == [2] * 10 + [6] * 10
    assert all(space.cost(child) == space.budget for child in children)


def test_interaction_makes_the_prediction_decay(bits: Make, exact: Exact) -> None:
    space = bits(units=40)
    found = explore(
        space, exact(coupled), Random(0), space.uniform(), tokens=8, limit=2000, distances=(1, 16), offspring=64
    )
    near, far = found.distances
    assert near.predicted == pytest.approx(1)
    assert far.predicted < 0.9
    assert far.repeated == pytest.approx(1)


def test_noise_of_the_minibatch_shows_in_the_repetition(bits: Make) -> None:
    space, noise = bits(units=40), Random(1)

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        return [linear(profile) + noise.gauss(0, 2.0) for profile in profiles]

    found = explore(space, evaluate, Random(0), space.uniform(), tokens=8, limit=300, distances=(1,), offspring=200)
    (at,) = found.distances
    assert 0.4 < at.repeated < 0.75  # changes have a variance of about 4, and so has the noise; ranks lose a little
    assert at.predicted == pytest.approx(at.repeated, abs=0.12)


def test_shares_and_medians_are_of_the_mean_of_both_minibatches(bits: Make) -> None:
    space, calls = bits(units=12), 0

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        nonlocal calls
        calls += 1
        return [linear(profile) * (1, 3, 5)[calls - 1] for profile in profiles]

    found = explore(space, evaluate, Random(0), space.uniform(), tokens=8, limit=500, distances=(1,), offspring=500)
    (at,) = found.distances
    assert at.offspring == 12 * 11
    assert at.better == 0.5
    changes = sorted(4 * switch.change for switch in found.neighbours)
    assert at.change == pytest.approx((changes[65] + changes[66]) / 2)


def test_prediction_is_compared_with_both_minibatches(bits: Make) -> None:
    space, calls = bits(units=12), 0

    def evaluate(profiles: Sequence[Profile], tokens: int) -> list[float]:
        nonlocal calls
        calls += 1
        return [linear(profile) * (1, 1, -1)[calls - 1] for profile in profiles]

    found = explore(space, evaluate, Random(0), space.uniform(), tokens=8, distances=(1,))
    assert (found.distances[0].predicted, found.distances[0].repeated) == pytest.approx((0, -1))


def test_a_sample_of_stated_size(bits: Make, exact: Exact) -> None:
    space = bits(units=40)
    found = explore(space, exact(linear), Random(0), space.uniform(), tokens=8, limit=25, distances=(1,))
    assert (found.existing, len(found.neighbours)) == (1560, 25)
    assert len({(switch.raised, switch.lowered) for switch in found.neighbours}) == 25
    assert found.distances[0].offspring == 25


def test_distances_that_do_not_exist_are_missing(drops: Make, exact: Exact) -> None:
    space = drops(blocks=6, k=1)  # two switches at most: one attention, one MLP
    base = profile_that_drops(space, ["2.attn", "3.mlp"])
    found = explore(
        space, exact(lambda p: sum(i for i, level in enumerate(p.levels) if level == "drop")), Random(0), base, tokens=8
    )
    assert [(at.switches, at.offspring) for at in found.distances] == [(1, 10), (2, 25)]


def test_scores_that_are_not_finite_are_left_out(bits: Make, exact: Exact) -> None:
    space = bits(units=12)
    found = explore(
        space,
        exact(lambda p: math.inf if p["u0"] == "2" else linear(p)),
        Random(0),
        space.uniform(),
        tokens=8,
        distances=(1,),
        offspring=500,
    )
    assert (found.left_out, len(found.neighbours)) == (11, 121)
    assert all(math.isfinite(switch.change) for switch in found.neighbours)
    pairs = exact(lambda p: math.inf if p["u0"] == p["u1"] == "2" else linear(p))
    found = explore(space, pairs, Random(0), space.uniform(), tokens=8, distances=(2,), offspring=500)
    assert found.left_out == 500 - found.distances[0].offspring > 0
    with pytest.raises(ConfigError, match="none of 132 switches has a finite score; the profile's own score is nan"):
        explore(space, exact(lambda p: math.nan), Random(0), space.uniform(), tokens=8)


def test_a_profile_without_neighbours(exact: Exact) -> None:
    units = [Unit(f"u{i}", i, "u", 1, (Level("2", 2), Level("4", 4 + i))) for i in range(3)]
    space = SearchSpace(tuple(units), 10, ((0, 1, 2),))
    with pytest.raises(ConfigError, match="has no neighbours"):
        explore(space, exact(linear), Random(0), space.decode((1, 0, 0)), tokens=8)


@pytest.mark.parametrize("sizes", [{"limit": 0}, {"offspring": 0}, {"distances": (1, 0)}])
def test_sizes_below_one(bits: Make, exact: Exact, sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be 1 or more"):
        explore(bits(), exact(linear), Random(0), bits().uniform(), tokens=8, **sizes)


def test_json_and_tables(bits: Make, exact: Exact) -> None:
    space = bits(units=40)
    found = explore(space, exact(coupled), Random(0), space.uniform(), tokens=8, limit=100)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["distances"][4]["switches"] == 16
    switches, distances = neighbour_table(found, shown=3), distance_table(found)
    assert "100 of 1560 single switches, 8 tokens" in switches.title
    assert [row[0] for row in switches.rows[:3]] == [switch.raised for switch in found.neighbours[:3]]
    assert [row[1] for row in switches.rows[3:]] == [switch.lowered for switch in found.neighbours[-3:]]
    assert [row[0] for row in distances.rows] == ["1", "2", "4", "8", "16"]
    assert all(len(row) == len(table.headers) for table in (switches, distances) for row in table.rows)
