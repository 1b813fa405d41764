"""Parts that can be dropped beside levels: no move breaks a bundle or the budget, small spaces are solved exactly."""

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.profile import DROP, Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, ProfileError
from evopress.search import BestOf, Evolution, Schedule, Stage, knapsack, run_search
from evopress.search.baselines.knapsack import Errors
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves
from evopress.search.moves.bundles import bundle_moves, drop_and_spend, restore_and_save, trade_drops
from evopress.search.starts.bundles import drop_then_quantize, sequences
from evopress.search.starts.drawn import random_start
from evopress.search.starts.refit import refit
from evopress.search.surrogate import Surrogate, effect_table

MOVES = default_moves() | bundle_moves()


def toy(
    budget: int, blocks: int = 3, widths: tuple[int, ...] = (2, 3, 4), sizes: tuple[int, ...] = (1, 2)
) -> SearchSpace:
    """An embedding that stays, and blocks of two weights that are dropped together."""
    ends = Unit("embedding", -1, "embedding", 2, tuple(Level(str(bits), 2 * bits) for bits in widths))
    units = [ends]
    for block in range(blocks):
        for role, size in zip("qd", sizes, strict=True):
            levels = (Level(DROP, 0), *(Level(str(bits), bits * size) for bits in widths))
            units.append(Unit(f"{block}.{role}", block, role, size, levels))
    bundles = tuple((1 + 2 * block, 2 + 2 * block) for block in range(blocks))
    return SearchSpace(tuple(units), budget, (tuple(range(len(units))),), bundles=bundles)


def everything(space: SearchSpace) -> list[tuple[int, ...]]:
    """All profiles that fit, by trying every combination of levels."""
    return [own for own in itertools.product(*(range(len(unit.levels)) for unit in space.units)) if space.fits(own)]


def some_errors(space: SearchSpace, seed: int) -> dict[str, dict[str, float]]:
    """Errors that fall with bits, and harm of drops of about the same size."""
    rng = Random(seed)
    errors = {}
    for unit in space.units:
        scale = rng.uniform(0.2, 2.0)
        own = {level.name: scale * 4.0 ** -int(level.name) * rng.uniform(0.7, 1.3) for level in unit.levels[-3:]}
        errors[unit.name] = own | ({DROP: rng.uniform(0.01, 0.1)} if unit.levels[0].name == DROP else {})
    return errors


def total(space: SearchSpace, errors: Errors, profile: Profile) -> float:
    return sum(errors[name][level] for name, level in profile.items())


def test_a_bundle_is_dropped_as_a_whole_or_not_at_all():
    space = toy(30)
    choice = dict.fromkeys(space.named, "2")
    assert space.cost(Profile.of(choice)) == 22
    assert space.cost(Profile.of(choice | {"1.q": DROP, "1.d": DROP})) == 16
    with pytest.raises(ProfileError, match=r"1\.d is dropped and 1\.q is not; drop all weights of a part, or none"):
        space.encode(Profile.of(choice | {"1.d": DROP}))
    with pytest.raises(ProfileError, match="drops all 3 parts that can be dropped; one has to stay"):
        space.encode(Profile.of({name: "2" if name == "embedding" else DROP for name in space.named}))
    assert space.lowest == 4 + 6
    assert space.n_profiles == 3 * ((1 + 9) ** 3 - 1)
    assert [profile.levels[0] for profile in space.uniforms()] == ["2", "3", "4"]
    with pytest.raises(BudgetError, match="below the cheapest profile, which costs 10"):
        toy(9)


@pytest.mark.parametrize(
    ("bundles", "message"),
    [(((1, 2), (2, 3)), "share units"), (((0, 1),), "its first level must be drop"), (((),), "or are empty")],
)
def test_malformed_bundles(bundles: tuple[tuple[int, ...], ...], message: str):
    space = toy(30)
    with pytest.raises(ProfileError, match=message):
        SearchSpace(space.units, 30, space.groups, bundles=bundles)


def walk(space: SearchSpace, steps: int, seed: int) -> int:
    """So many random moves in a row, each seen to give a legal profile; how many gave one."""
    rng, moves, given = Random(seed), list(MOVES.values()), 0
    parent = random_start(space, rng)
    assert space.fits(parent)
    for _ in range(steps):
        child = rng.choice(moves)(space, parent, rng)
        if child is not None:
            assert space.cost(child) <= space.budget
            assert all(len({child[unit] == 0 for unit in bundle}) == 1 for bundle in space.bundles)
            assert any(child[bundle[0]] for bundle in space.bundles)
            parent, given = child, given + 1
    return given


@settings(deadline=None, max_examples=40)
@given(st.integers(10, 44), st.integers(1, 5), st.integers(0, 10**6))
def test_no_move_breaks_a_bundle_or_the_budget(budget: int, blocks: int, seed: int):
    space = toy(budget, blocks)
    walk(space, 60, seed)
    for profile in refit(space, space.decode(random_start(space, Random(seed))), Random(seed)):
        space.validate(profile)


@pytest.mark.slow
def test_no_move_breaks_a_bundle_or_the_budget_in_a_million():
    assert walk(toy(60, 8, sizes=(3, 5)), 1_000_000, 0) > 500_000


def test_moves_do_what_they_say():
    space, rng = toy(30), Random(0)
    whole = (1,) * 7
    child = drop_and_spend(space, whole, rng)
    assert child is not None
    assert sum(child[bundle[0]] == 0 for bundle in space.bundles) == 1
    assert sum(child[unit] > 1 for unit in range(1, 7)) > 0
    assert restore_and_save(space, whole, rng) is None
    assert trade_drops(space, whole, rng) is None
    back = restore_and_save(space, child, rng)
    assert back is not None
    assert all(back[1:])
    other = trade_drops(space, child, rng)
    assert other is not None
    assert [own == 0 for own in other] != [own == 0 for own in child]
    assert sum(not own for own in other) == 2
    alone = (1, 1, 1, 0, 0, 0, 0)
    assert drop_and_spend(space, alone, rng) is None


@pytest.mark.parametrize("budget", [10, 13, 18, 24, 30, 37, 44])
def test_the_knapsack_is_exact(budget: int):
    space = toy(budget)
    profiles = [space.decode(own) for own in everything(space)]
    for seed in range(5):
        errors = some_errors(space, seed)
        best = min(total(space, errors, profile) for profile in profiles)
        assert total(space, errors, knapsack(space, errors)) == pytest.approx(best)


def test_both_orders_are_proposed_and_fit():
    space = toy(30)
    errors = some_errors(space, 1)
    found = sequences(space, errors)
    assert all(space.fits(profile) for profile in found)
    drops = {sum(level == DROP for level in profile.levels) // 2 for profile in found}
    assert drops >= {0, 1, 2}
    alone = drop_then_quantize(space, errors, ())
    assert alone is not None
    assert DROP not in alone.levels
    assert drop_then_quantize(toy(16), errors, ()) is None  # three blocks at the lowest level cost 22


@pytest.mark.slow
@pytest.mark.parametrize("budget", [22, 26])
def test_the_optimum_of_small_spaces_is_found(budget: int):
    """From random starts, blind to everything but scores that do not add up, in 20 of 20 seeds."""
    space = toy(budget)
    levels = np.array(everything(space))
    for seed in range(20):
        scores, profiles = _scores(space, levels, seed)
        rng = Random(seed)
        search = Evolution(
            space,
            rng,
            Schedule(generations=150, offspring=16, stages=[Stage(tokens=1, survivors=1)]),
            mutate=AdaptiveMoves(MOVES),
            start=[space.decode(random_start(space, rng)) for _ in range(8)],
        )
        found = run_search(search, lambda asked, tokens, scores=scores: [scores[one] for one in asked])  # type: ignore[misc]
        assert scores[found] == pytest.approx(min(profiles)), seed


def _scores(space: SearchSpace, levels: np.ndarray, seed: int) -> tuple["Scores", np.ndarray]:
    """A score for each profile: a sum of errors, and products of them for what units do to each other."""
    errors = some_errors(space, seed)
    table = np.zeros((len(space.units), 4))
    for row, unit in enumerate(space.units):
        table[row, : len(unit.levels)] = [errors[unit.name][level.name] for level in unit.levels]
    own = table[np.arange(len(space.units)), levels]
    twist = np.abs(np.random.default_rng(seed).normal(size=(len(space.units), len(space.units))))
    found = own.sum(-1) + 0.1 * np.einsum("pi,ij,pj->p", own, twist, own)
    return Scores(space, {tuple(row): float(score) for row, score in zip(levels.tolist(), found, strict=True)}), found


class Scores:
    """Profile -> score."""

    def __init__(self, space: SearchSpace, scores: dict[tuple[int, ...], float]) -> None:
        self._space, self._scores = space, scores

    def __getitem__(self, profile: Profile) -> float:
        return self._scores[self._space.encode(profile)]


def test_the_surrogate_takes_a_bundle_for_one_step():
    space = toy(30)
    errors = some_errors(space, 0)
    none = {unit: dict.fromkeys(own, 0.0) for unit, own in errors.items()}
    model = Surrogate(space, effect_table(space, errors, none))
    parent, child = (1, 2, 2, 1, 1, 1, 1), (1, 0, 0, 1, 1, 1, 1)
    change = total(space, errors, space.decode(child)) - total(space, errors, space.decode(parent))
    assert model.predict(parent, child)[0] == pytest.approx(change)
    assert len(model._steps(np.array(parent), np.array(child))[0]) == 3  # the drop, and a level of each of both


def test_best_of_random_profiles():
    space = toy(20)
    search = BestOf(space, Random(0), count=8, tokens=1)
    run_search(search, lambda profiles, tokens: [float(space.cost(profile)) for profile in profiles])
    space.validate(search.best)
