"""The additive model against a dense reference, and what it must not be moved by."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search import equal_switches, free_switches
from evopress.search.learner import Evidence
from evopress.search.moves.mutation import Indices
from evopress.search.starts.drawn import random_start
from evopress.search.surrogate import Surrogate, effect_table

Toy = Callable[..., SearchSpace]


def evidence(
    parent: Indices,
    candidates: Sequence[Indices],
    scores: Sequence[float],
    tokens: int = 512,
    winner: Indices | None = None,
) -> Evidence:
    kept = (winner if winner is not None else parent,)
    return Evidence(1, 0, tokens, parent, tuple(candidates), tuple(scores), kept, True)


def children(space: SearchSpace, parent: Indices, count: int, seed: int = 0) -> list[Indices]:
    rng = Random(seed)
    found: dict[Indices, None] = {}
    while len(found) < count:
        child = free_switches(space, parent, rng)
        if child is not None:
            found[child] = None
    return list(found)


def dense_steps(space: SearchSpace, width: int, parent: Indices, child: Indices) -> np.ndarray:
    row = np.zeros((len(space.units), width))
    for unit, (before, after) in enumerate(zip(parent, child, strict=True)):
        row[unit, before:after] += 1
        row[unit, after:before] -= 1
    return row.ravel()


def test_an_update_is_the_dense_gaussian_posterior(toy: Toy) -> None:
    space, parent = toy(sizes=(1, 2, 1, 3, 1, 2), bits=(2, 3, 4, 5)), (1,) * 6
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(6, 4))
    model = Surrogate(space, effects, trust=0.7, floor=0.3, noise_tokens=1000)
    mean, variance = model.mean.copy(), model.variance.copy()
    candidates = [parent, *children(space, parent, 7)]
    scores = rng.normal(size=8)
    model.learn(evidence(parent, candidates, scores.tolist(), tokens=250))
    design = np.array([dense_steps(space, 3, parent, child) for child in candidates])
    noise = 4.0 * design**2 @ variance
    joint = np.column_stack([design, np.ones(8)])  # the offset as one more unknown, with a very wide prior
    prior = np.diag([*variance, 1e4 * variance.mean() * 6])
    gain = prior @ joint.T @ np.linalg.inv(joint @ prior @ joint.T + np.diag(noise + 1e-9))
    expected = np.append(mean, scores.mean()) + gain @ (scores - design @ mean - scores.mean())
    assert model.mean == pytest.approx(expected[:-1], abs=2e-3)
    assert model.variance == pytest.approx(np.diag(prior - gain @ joint @ prior)[:-1], abs=2e-3)


def test_a_prediction_is_the_sum_of_the_steps_between(toy: Toy) -> None:
    space = toy(bits=(2, 3, 4, 5))
    effects = np.random.default_rng(1).normal(size=(6, 4))
    model = Surrogate(space, effects)
    parent, child = (0, 1, 1, 1, 1, 3), (2, 1, 0, 1, 1, 1)
    expected = sum(effects[unit, b] - effects[unit, a] for unit, (a, b) in enumerate(zip(parent, child, strict=True)))
    mean, deviation = model.predict(parent, child)
    assert mean == pytest.approx(expected)
    there = model.predict(child, parent)
    assert there == (pytest.approx(-mean), pytest.approx(deviation))
    assert model.predict(parent, parent) == (0.0, 0.0)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 10**6), shift=st.floats(-100, 100))
def test_only_differences_within_a_batch_count(
    spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int, shift: float
) -> None:
    space, rng = data.draw(spaces), Random(seed)
    parent = random_start(space, rng)
    candidates = list(dict.fromkeys(random_start(space, rng) for _ in range(5)))
    scores = [rng.random() for _ in candidates]
    one, other = Surrogate(space), Surrogate(space)
    one.learn(evidence(parent, candidates, scores))
    other.learn(evidence(parent, candidates, [score + shift for score in scores]))
    assert other.mean == pytest.approx(one.mean, abs=1e-6)
    assert other.variance == pytest.approx(one.variance)
    assert np.isfinite(one.mean).all()
    assert (one.variance >= 0).all()


def test_one_candidate_or_equal_ones_say_nothing(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6
    model = Surrogate(space)
    model.learn(evidence(parent, [children(space, parent, 1)[0]], [7.0]))
    model.learn(evidence(parent, [parent, parent], [7.0, 8.0]))
    assert not model.mean.any()


def test_it_finds_a_linear_truth_and_its_doubt_shrinks(toy: Toy) -> None:
    space, parent = toy(sizes=(1,) * 20), (1,) * 20
    truth = np.random.default_rng(0).uniform(-1, 0, size=(20, 2))
    model, rng = Surrogate(space, noise_tokens=64), Random(0)
    first = model.predict(parent, children(space, parent, 1)[0])[1]
    for seed in range(60):
        scored = children(space, parent, 8, seed)
        offset = rng.gauss(0, 10)
        scores = [float(dense_steps(space, 2, parent, child) @ truth.ravel()) + offset for child in scored]
        model.learn(evidence(parent, scored, scores, tokens=1024))
    fresh = children(space, parent, 50, 999)
    true = [float(dense_steps(space, 2, parent, child) @ truth.ravel()) for child in fresh]
    means, deviations = model.predict_all(parent, fresh)
    assert np.corrcoef(means, true)[0, 1] > 0.97
    assert deviations.mean() < first / 4


def test_more_tokens_move_it_further(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6
    scored = children(space, parent, 3)
    moved = []
    for tokens in (16, 512, 65536):
        model = Surrogate(space)
        model.learn(evidence(parent, scored, [0.0, 1.0, 2.0], tokens))
        moved.append(float(np.abs(model.mean).sum()))
    assert moved[0] < moved[1] / 3 < moved[2] / 3


def test_what_is_learnt_fades_when_the_parent_moves(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6
    scored = children(space, parent, 3)
    stays, moves = Surrogate(space, memory=0.5), Surrogate(space, memory=0.5)
    stays.learn(evidence(parent, scored, [0.0, 1.0, 2.0]))
    moves.learn(evidence(parent, scored, [0.0, 1.0, 2.0], winner=scored[0]))
    assert moves.mean == pytest.approx(stays.mean / 2)
    prior = Surrogate(space).variance
    assert moves.variance == pytest.approx(prior + (stays.variance - prior) / 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_left_out(toy: Toy, bad: float) -> None:
    space, parent = toy(), (1,) * 6
    scored = children(space, parent, 4)
    one, other = Surrogate(space), Surrogate(space)
    one.learn(evidence(parent, scored[:3], [0.0, 1.0, 2.0]))
    other.learn(evidence(parent, scored, [0.0, 1.0, 2.0, bad]))
    assert (other.mean == one.mean).all()


def test_a_child_that_broke_the_model_does_not_drown_the_others(toy: Toy) -> None:
    space, parent = toy(sizes=(1,) * 12), (1,) * 12
    scored = children(space, parent, 8)
    means = []
    for worst in (1e2, 1e6):
        model = Surrogate(space)
        model.learn(evidence(parent, scored, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, worst]))
        means.append(model.mean)
    alone = np.flatnonzero(np.abs(means[1]) < 10)  # the steps of the others alone
    assert len(alone) >= 8
    assert means[0][alone] == pytest.approx(means[1][alone], abs=0.05)


def test_a_step_that_broke_the_model_is_predicted_to_break_it_again(toy: Toy) -> None:
    """Although sensitivities promised a gain; in a batch of a race as in one of a first stage."""
    space, parent = toy(sizes=(1,) * 12), (1,) * 12
    effects = np.zeros((12, 3))
    effects[0] = 0.25, 0.0, -0.25
    broken = (2, 0, *parent[2:])
    for others in (children(space, parent, 12), [parent, (1, 1, 2, 0, *parent[4:])]):
        sound = [child for child in others if child[0] == 1]
        model = Surrogate(space, effects)
        assert model.predict(parent, broken)[0] < -0.2
        model.learn(evidence(parent, [*sound, broken], [*(0.8 + 0.001 * i for i in range(len(sound))), 2.9]))
        assert model.predict(parent, broken)[0] > 1
        assert max(model.predict(parent, child)[0] for child in sound) < 0.1


def test_start_candidates_teach_nothing(toy: Toy) -> None:
    space, parent = toy(), (1,) * 6
    model = Surrogate(space)
    model.learn(replace(evidence(parent, children(space, parent, 3), [0.0, 1.0, 2.0]), generation=0))
    assert not model.mean.any()


def test_the_order_of_prior_and_evidence_scales_with_the_scores(toy: Toy) -> None:
    """No unit of the score is built in: scores and predictions ten times as large give ten times the means."""
    space, parent = toy(), (1,) * 6
    effects, scored = np.random.default_rng(2).normal(size=(6, 3)), children(space, parent, 4)
    scores = np.array([0.0, 1.0, 2.0, 4.0])
    one, ten = Surrogate(space, effects), Surrogate(space, 10 * effects)
    one.learn(evidence(parent, scored, scores.tolist()))
    ten.learn(evidence(parent, scored, (10 * scores).tolist()))
    assert ten.mean == pytest.approx(10 * one.mean)


def test_bad_settings_and_tables_are_named(toy: Toy) -> None:
    space = toy()
    with pytest.raises(ConfigError, match="memory is 2"):
        Surrogate(space, memory=2)
    with pytest.raises(ConfigError, match="noise_tokens is 0"):
        Surrogate(space, noise_tokens=0)
    with pytest.raises(ConfigError, match="trust is -1"):
        Surrogate(space, trust=-1)
    with pytest.raises(ConfigError, match=r"shape \(6, 2\); \(6, 3\) is needed"):
        Surrogate(space, np.zeros((6, 2)))


def test_predictions_that_are_not_finite_count_as_the_worst(toy: Toy) -> None:
    space = toy()
    effects = np.zeros((6, 3))
    effects[0] = [math.inf, 0.0, -1.0]
    effects[1] = [5.0, 0.0, -1.0]
    model = Surrogate(space, effects)
    assert model.predict((1,) * 6, (0, 1, 1, 1, 1, 1))[0] == 5.0


def test_sensitivities_become_a_table(toy: Toy) -> None:
    space = toy()
    slope = {unit.name: {"2": 1.0, "3": 0.0, "4": -1.0} for unit in space.units}
    curvature = {unit.name: {"2": 2.0, "3": 0.0, "4": 0.5} for unit in space.units}
    assert effect_table(space, slope, curvature, gamma=2.0).tolist() == [[5.0, 0.0, 0.0]] * 6
    del slope["u3"]["3"]
    with pytest.raises(ConfigError, match="unit u3: no sensitivity is known for '3'"):
        effect_table(space, slope, curvature)


def test_units_with_more_levels_than_a_byte_holds(toy: Toy) -> None:
    space = toy(sizes=(1,) * 4, bits=tuple(range(1, 302)), average="151")
    parent, child = (300, 150, 0, 150), (299, 151, 0, 150)
    model = Surrogate(space, np.arange(4 * 301, dtype=float).reshape(4, 301))
    assert model.predict(parent, child)[0] == 0.0
    assert model.predict(parent, (300, 160, 0, 150))[0] == 10.0


def test_equal_switches_of_a_single_level_space_need_no_steps(toy: Toy) -> None:
    space = toy(bits=(3,))
    model = Surrogate(space)
    assert equal_switches(space, (0,) * 6, Random(0)) is None
    model.learn(evidence((0,) * 6, [(0,) * 6] * 2, [0.0, 1.0]))
    assert model.predict((0,) * 6, (0,) * 6) == (0.0, 0.0)
