"""Chances against brute force over all minibatches, and against the closed form for Gaussian noise."""

import json
import math
from dataclasses import asdict
from itertools import permutations, product
from random import Random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.analysis import PieceScores, agreement_table, cuts, measure_noise, piece_scores, stage_table
from evopress.analysis.statistics import spearman
from evopress.errors import ConfigError, ScheduleError
from evopress.search import Stage


def whole(means: np.ndarray, length: int = 8) -> PieceScores:
    """Scores from (profiles, sequences) of means of whole sequences of one length."""
    counts = np.full(means.shape[1], length)
    return piece_scores(means * counts, counts, cuts([length] * means.shape[1]))


def gaussian(profiles: int, sequences: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(profiles, sequences))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_cuts_are_doublings_and_the_whole(lengths: list[int], shortest: int) -> None:
    pieces = cuts(lengths, shortest)
    assert len(set(pieces)) == len(pieces)
    for sequence, length in enumerate(lengths):
        own = [size for other, size in pieces if other == sequence]
        assert own[-1] == length
        assert own[:-1] == [shortest * 2**i for i in range(len(own) - 1)]
        assert shortest * 2 ** (len(own) - 1) >= length


def test_scores_are_ordered_by_cut_and_sequence_whatever_the_order_they_came_in() -> None:
    pieces = [(1, 4), (0, 8), (0, 4), (0, 20), (0, 16)]
    found = piece_scores([[size + 100.0 * sequence for sequence, size in pieces]], [s for _, s in pieces], pieces)
    assert found.tokens.tolist() == [[4, 4], [8, 4], [16, 4], [20, 4]]
    assert found.sums[0].tolist() == [[4, 104], [8, 104], [16, 104], [20, 104]]
    assert found.counts.tolist() == found.tokens.tolist()
    assert found.total == 24
    assert found.full().tolist() == [124 / 24]


def test_a_minibatch_is_whole_sequences_and_the_longest_cut_that_fits() -> None:
    pieces = cuts([8, 8, 8], shortest=2)
    sums = [[10.0**sequence * size for sequence, size in pieces]]  # which digit: which sequence; its size: how much
    scores = piece_scores(sums, [size for _, size in pieces], pieces)
    for tokens, sizes in ((2, [2]), (3, [2]), (7, [4]), (8, [8]), (9, [8]), (14, [8, 4]), (24, [8, 8, 8])):
        expected = {
            sum(10.0**sequence * size for sequence, size in zip(order, sizes, strict=False)) / sum(sizes)
            for order in permutations(range(3))
        }
        seen = [scores.minibatch(tokens, Random(seed)) for seed in range(100)]
        assert {drawn for _, drawn in seen} == {sum(sizes)}
        assert sorted({float(own[0]) for own, _ in seen}) == pytest.approx(sorted(expected))


def test_agreement_equals_the_mean_over_all_minibatches() -> None:
    scores = whole(gaussian(6, 7))
    full = scores.full()
    found = measure_noise(scores, Random(0), tokens=[8, 16, 56], repeats=4000)
    singles = [spearman(scores.sums[:, 0, i], full) for i in range(7)]
    pairs = [spearman(scores.sums[:, 0, i] + scores.sums[:, 0, j], full) for i, j in permutations(range(7), 2)]
    one, two, every = found.agreements
    assert one.mean == pytest.approx(np.mean(singles), abs=0.03)
    assert two.mean == pytest.approx(np.mean(pairs), abs=0.03)
    assert (one.low, one.high) == pytest.approx((min(singles), max(singles)))
    first = [scores.sums[:, 0, i].argmin() == full.argmin() for i in range(7)]
    assert one.best == pytest.approx(np.mean(first), abs=0.03)
    assert (every.mean, every.low, every.high, every.best) == pytest.approx((1, 1, 1, 1))
    assert [at.drawn for at in found.agreements] == [8, 16, 56]


def test_stage_losses_equal_brute_force() -> None:
    """Every stage draws one of 5 sequences, then 2 of them; all combinations are enumerated."""
    scores = whole(gaussian(6, 5, seed=2))
    full, parts = scores.full(), scores.sums[:, 0]
    outcomes = []
    for first, second in product(range(5), permutations(range(5), 2)):
        alive = np.argsort(parts[:, first])[:3]
        last = alive[np.argmin(parts[alive][:, list(second)].sum(1))]
        outcomes.append((full.argmin() in alive, last == full.argmin(), full[alive].min(), full[last]))
    kept, won, first_loss, last_loss = np.mean(outcomes, axis=0)
    found = measure_noise(scores, Random(0), stages=[Stage(8, 3), Stage(16, 1)], tokens=[], repeats=6000)
    one, two = found.stages
    assert one.kept == pytest.approx(kept, abs=0.025)
    assert one.discards == pytest.approx(1 - kept, abs=0.025)
    assert two.kept == pytest.approx(won, abs=0.025)
    assert two.discards == pytest.approx(kept - won, abs=0.025)
    assert one.loss == pytest.approx(first_loss - full.min(), abs=0.02)
    assert two.loss == pytest.approx(last_loss - full.min(), abs=0.02)
    assert 0.05 < won < kept < 0.95


@pytest.mark.parametrize("count", [1, 4, 16])
def test_gaussian_noise_of_known_variance(count: int) -> None:
    """Two profiles a distance of 0.5 apart, noise of variance 1 each: the better one loses with Phi(-0.5 sqrt(n/2))."""
    noise = gaussian(2, 40_000, seed=3)
    noise -= noise.mean(1, keepdims=True)
    noise[1] += 0.5
    scores = whole(np.vstack([noise, np.full((1, 40_000), 1e6)]))  # a third one, that never wins, to make three
    found = measure_noise(scores, Random(0), stages=[Stage(8 * count, 1)], tokens=[], repeats=3000)
    assert found.stages[0].discards == pytest.approx(NormalDist().cdf(-0.5 * math.sqrt(count / 2)), abs=0.025)
    assert found.stages[0].loss == pytest.approx(0.5 * found.stages[0].discards)


def test_offspring_are_drawn_from_the_profiles() -> None:
    """Noise-free scores of 5 profiles, of which 2 are offspring: nothing is lost, whichever these are."""
    scores = whole(np.arange(5.0)[:, None] + np.zeros((5, 4)))
    found = measure_noise(scores, Random(0), stages=[Stage(8, 1)], offspring=2, repeats=200)
    assert (found.stages[0].kept, found.stages[0].loss, found.offspring) == (1.0, 0.0, 2)
    assert found.spread == pytest.approx(math.sqrt(2))


def test_every_profile_is_an_offspring_as_often_as_the_others() -> None:
    """Of three pairs one loses its best on half of the minibatches, the others never."""
    scores = whole(np.array([[9.0, 9.0], [0.0, 1.0], [1.0, 0.1]]))
    found = measure_noise(scores, Random(0), stages=[Stage(8, 1)], tokens=[], offspring=2, repeats=6000)
    assert found.stages[0].discards == pytest.approx(1 / 6, abs=0.02)


def test_more_tokens_agree_more_and_sizes_double_from_the_shortest_cut() -> None:
    rng = np.random.default_rng(0)
    pieces = cuts([256] * 6)
    per_token = rng.normal(size=(8, 6, 256)) + np.linspace(0, 0.4, 8)[:, None, None]
    sums = [[per_token[profile, sequence, :size].sum() for sequence, size in pieces] for profile in range(8)]
    found = measure_noise(piece_scores(sums, [size for _, size in pieces], pieces), Random(0), repeats=300)
    assert [at.tokens for at in found.agreements] == [64, 128, 256, 512, 1024, 1536]
    means = [at.mean for at in found.agreements]
    assert means == sorted(means)
    assert means[0] < 0.8
    assert means[-1] == pytest.approx(1)


def test_profiles_without_finite_scores_are_left_out() -> None:
    means = gaussian(6, 4)
    means[2, 1] = np.nan
    found = measure_noise(whole(means), Random(0), stages=[Stage(8, 1)], repeats=20)
    assert (found.profiles, found.left_out, found.offspring) == (5, 1, 5)
    json.dumps(asdict(found), allow_nan=False)
    with pytest.raises(ConfigError, match="2 of 2 profiles have finite scores"):
        measure_noise(whole(means[:2]), Random(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [Stage(8, 1)], "offspring": 7}, "7 offspring are more than the 6 profiles"),
        ({"stages": [Stage(100, 1)]}, "needs more than the 32 that exist"),
        ({"stages": [Stage(4, 1)]}, "4 tokens are fewer than the shortest cut of 8"),
        ({"tokens": [16, 7]}, "7 tokens are fewer than the shortest cut of 8"),
        ({"stages": [Stage(8, 2)]}, "must keep exactly 1"),
        ({"repeats": 0}, "repeats is 0; it must be 1 or more"),
    ],
)
def test_schedules_that_the_scores_cannot_serve(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        measure_noise(whole(gaussian(6, 4)), Random(0), **arguments)  # type: ignore[arg-type]


def test_nothing_to_cut() -> None:
    with pytest.raises(ConfigError, match="0 sequences cannot be cut to 64"):
        cuts([])


def test_the_same_seed_gives_the_same_result() -> None:
    scores = whole(gaussian(6, 9))
    stages = [Stage(8, 2), Stage(16, 1)]
    assert measure_noise(scores, Random(4), stages=stages) == measure_noise(scores, Random(4), stages=stages)


def test_json_and_tables() -> None:
    found = measure_noise(whole(gaussian(6, 9)), Random(0), stages=[Stage(8, 2), Stage(16, 1)], repeats=50)
    data = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert data["stages"][1]["survivors"] == 1
    agreements, stages = agreement_table(found), stage_table(found)
    assert [row[0] for row in agreements.rows] == ["8", "16", "32", "64", "72"]
    assert agreements.rows[-1][1:] == ("1.000", "1.00 to 1.00", "100%")
    assert [row[:2] for row in stages.rows] == [("8", "2"), ("16", "1")]
    assert all(len(row) == len(table.headers) for table in (agreements, stages) for row in table.rows)


def test_reads_what_the_evaluator_gives() -> None:
    """Scores of a pico model on cuts: on whole sequences they are those of the whole text."""
    import torch

    from evopress.core.profile import Profile
    from evopress.fitness.divergence import KL
    from evopress.fitness.evaluator import Evaluator
    from evopress.models import Runner, describe
    from evopress.models.assemble import Assembly, weight_slots
    from evopress.testing import pico_model
    from evopress.text.tokens import Piece, Tokens

    model = pico_model("llama", blocks=2)
    model_map = describe(model)
    generator = torch.Generator().manual_seed(0)
    text = Tokens.of([torch.randint(0, 96, (n,), generator=generator) for n in (12, 9, 12)], "random")
    names = [linear.name for linear in model_map.linears]
    profiles = [Profile.of({name: "0" if i == own else "1" for i, name in enumerate(names)}) for own in range(4)]
    weights = {linear.name: model.get_parameter(linear.view.parameter).detach() for linear in model_map.linears}

    slots = weight_slots(model, model_map, lambda name, level, dtype: weights[name] * int(level))
    with Assembly(slots) as assembly:
        evaluator = Evaluator(Runner(model, model_map), assembly, text, (KL(),))
        pieces = cuts([len(sequence) for sequence in text.sequences], shortest=4)
        found = evaluator.evaluate(profiles, [Piece(*piece) for piece in pieces])
        expected = evaluator.evaluate_all(profiles).scores()
    scores = piece_scores(found.sums[:, 0], found.counts[0], pieces)
    assert scores.full().tolist() == pytest.approx(expected)
    assert measure_noise(scores, Random(0), repeats=20).tokens == 33
