"""Sums of errors that are the score correlate perfectly; scores that interact do not."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from random import Random

import pytest

from evopress.analysis import correlate_errors, error_table, random_profiles
from evopress.analysis.monotonicity import error_sum
from evopress.core.profile import Profile
from evopress.core.space import SearchSpace
from evopress.errors import ConfigError, ProfileError
from evopress.search import Evaluate

Make = Callable[..., SearchSpace]
Exact = Callable[[Callable[[Profile], float]], Evaluate]
Errors = dict[str, dict[str, float]]


def layer_errors(space: SearchSpace, seed: int = 0) -> Errors:
    rng = Random(seed)
    weights = {unit.name: rng.uniform(0.1, 1.0) for unit in space.units}
    return {u.name: {level.name: weights[u.name] * 4.0**-level.cost for level in u.levels} for u in space.units}


def test_a_score_that_adds_up_correlates_perfectly(bits: Make, exact: Exact) -> None:
    space = bits()
    errors = layer_errors(space)
    found = correlate_errors(
        exact(lambda p: 3 + 2 * error_sum(errors, p)), errors, random_profiles(space, 40, Random(1)), tokens=64
    )
    assert found.spearman == pytest.approx(1)
    assert found.pearson == pytest.approx(1)
    assert found.scores == pytest.approx([3 + 2 * total for total in found.sums])
    assert (found.left_out, found.tokens) == (0, 64)


def test_a_monotone_score_keeps_the_order_but_not_the_line(bits: Make, exact: Exact) -> None:
    space = bits()
    errors = layer_errors(space)
    found = correlate_errors(
        exact(lambda p: math.exp(300 * error_sum(errors, p))), errors, random_profiles(space, 40, Random(1)), tokens=64
    )
    assert found.spearman == pytest.approx(1)
    assert found.pearson < 0.9


def test_a_score_of_other_units_does_not_correlate(bits: Make, exact: Exact) -> None:
    space = bits(units=20)
    other = layer_errors(space, seed=5)
    shuffled = dict(zip(other, reversed(other.values()), strict=True))
    errors = {unit.name: {level.name: 0.0 for level in unit.levels} for unit in space.units}
    errors["u0"] = {"2": 3.0, "3": 2.0, "4": 1.0, "5": 0.0}
    found = correlate_errors(
        exact(lambda p: error_sum(shuffled, p)), errors, random_profiles(space, 200, Random(1)), tokens=64
    )
    assert abs(found.spearman) < 0.35
    assert found.low < found.spearman < found.high


def test_profiles_without_finite_numbers_are_left_out(bits: Make, exact: Exact) -> None:
    space = bits()
    profiles = random_profiles(space, 30, Random(1))
    errors = layer_errors(space)
    odd = {profiles[3]: math.inf, profiles[7]: math.nan}
    found = correlate_errors(exact(lambda p: odd.get(p, error_sum(errors, p))), errors, profiles, tokens=64)
    assert (found.left_out, len(found.scores)) == (2, 28)
    assert found.spearman == pytest.approx(1)
    with pytest.raises(ConfigError, match="2 of 2 profiles have finite scores"):
        correlate_errors(exact(lambda p: 1.0), errors, profiles[:2], tokens=64)


def test_a_missing_error_is_named() -> None:
    with pytest.raises(ProfileError, match="no error is known for '4'"):
        error_sum({"q": {"3": 1.0}}, Profile.of({"q": "4"}))


def test_json_and_table(bits: Make, exact: Exact) -> None:
    space = bits()
    errors = layer_errors(space)
    found = correlate_errors(
        exact(lambda p: -error_sum(errors, p)), errors, random_profiles(space, 9, Random(1)), tokens=8
    )
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["spearman"] == pytest.approx(-1)
    table = error_table(found)
    rows = dict(table.rows)
    assert rows["rank correlation (Spearman)"].startswith("-1.000")
    assert float(rows["score of the profile with the least sum"]) == pytest.approx(max(found.scores), rel=1e-4)
    assert all(len(row) == len(table.headers) for row in table.rows)
