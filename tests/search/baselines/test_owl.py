"""OWL's sparsities are its formula, and its profiles are the nearest within the budget."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.errors import ConfigError, ProfileError
from evopress.search import Evaluate, Owl, run_search
from evopress.search.baselines.owl import LAMBDAS, owl_profile, owl_sparsities

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]
SHARES = [0.011, 0.034, 0.02, 0.005]


def literal(shares: Sequence[Fraction], target: Fraction, lam: Fraction) -> list[Fraction]:
    """sparsity_b = S - 2 lambda (D_b - min D)/(max D - min D) + mean of that term, in exact arithmetic."""
    sparsities = []
    for b in range(len(shares)):
        term_b = 2 * lam * (shares[b] - min(shares)) / (max(shares) - min(shares))
        mean = sum(2 * lam * (d - min(shares)) / (max(shares) - min(shares)) for d in shares) / len(shares)
        sparsities.append(target - term_b + mean)
    return sparsities


@given(
    shares=st.lists(st.fractions(0, 1, max_denominator=1000), min_size=2, max_size=9).filter(lambda s: len(set(s)) > 1),
    target=st.fractions(0, 1, max_denominator=100),
    lam=st.fractions(0, 1, max_denominator=100),
)
def test_the_formula(shares: list[Fraction], target: Fraction, lam: Fraction) -> None:
    found = owl_sparsities(list(map(float, shares)), float(target), float(lam))
    assert found == pytest.approx(list(map(float, literal(shares, target, lam))), abs=1e-9)
    assert sum(found) / len(found) == pytest.approx(float(target))
    assert max(found) - min(found) == pytest.approx(2 * float(lam))


def test_blocks_without_a_difference_get_one_sparsity() -> None:
    assert owl_sparsities([0.1, 0.1, 0.1], 0.6, 0.2) == [0.6, 0.6, 0.6]


def test_a_block_has_one_sparsity_for_all_its_layers(sparse: Toy) -> None:
    sizes = (4000, 6000, 8000) * 4
    space = sparse(sizes=sizes, sparsity="0.6", step=40, reach=50)
    profile = owl_profile(space, SHARES, 0.1)
    expected = owl_sparsities(SHARES, 0.6, 0.1)
    assert space.cost(profile) == space.budget
    for unit, level in zip(space.units, space.encode(profile), strict=True):
        assert 1 - unit.levels[level].cost / unit.size == pytest.approx(expected[unit.block], abs=1.5 * 40 / unit.size)


@given(data=st.data(), strength=st.floats(0, 3))
def test_the_budget_is_met_exactly(
    sparsities: st.SearchStrategy[SearchSpace], data: st.DataObject, strength: float
) -> None:
    space = data.draw(sparsities)
    shares = data.draw(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    assert space.cost(owl_profile(space, shares, strength)) == space.budget


def test_the_whole_grid_is_scored_in_one_batch(sparse: Toy, fitness: Fitness) -> None:
    space = sparse(sizes=(400, 600, 800) * 4, step=4, reach=40)
    outliers = {3: SHARES, 5: SHARES[::-1], 7: [0.1, 0.1, 0.1, 0.1], 10: [0.0, 0.0, 0.0, 0.01]}
    search = Owl(space, outliers, tokens=9)
    batch = search.ask()
    assert batch is not None
    assert batch.tokens == 9
    every = {owl_profile(space, outliers[m], lam): (lam, m) for lam in reversed(LAMBDAS) for m in reversed(outliers)}
    assert set(batch.profiles) == set(every)
    assert len(every) == 5 * 3 + 1, "without a difference all lambdas give the uniform profile"
    best = run_search(search, fitness(space))
    assert fitness(space)([best], 1)[0] == min(fitness(space)(list(every), 1))
    assert search.setting == every[best]
    assert search.effort.profiles == 16
    flat = Owl(space, outliers, tokens=9)
    run_search(flat, lambda profiles, tokens: [float(profile != space.uniform()) for profile in profiles])
    assert (flat.best, flat.setting) == (space.uniform(), (0.02, 7)), "the first of the settings that lead there"


def test_what_owl_cannot_do(sparse: Toy, toy: Toy) -> None:
    with pytest.raises(ConfigError, match="OWL is for sparsity"):
        Owl(toy(), {5: SHARES}, tokens=1)
    with pytest.raises(ProfileError, match="outliers of 1 blocks were given, the space needs those of 2"):
        Owl(sparse(), {5: [0.1]}, tokens=1)
    with pytest.raises(ConfigError, match="grid of 5 lambdas and 0 multiples is empty"):
        Owl(sparse(), {}, tokens=1)
