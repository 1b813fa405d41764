"""Moves are drawn as often as they are good; each gives children within the budget."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search.learner import Evidence
from evopress.search.moves.adaptive import AdaptiveMoves, default_moves, several
from evopress.search.moves.mutation import Indices, equal_switches, free_switches
from evopress.search.starts.drawn import random_start

Toy = Callable[..., SearchSpace]
P, A, B = (1, 1, 1), (0, 1, 2), (2, 1, 0)


def told(
    moves: AdaptiveMoves, scored: tuple[Indices, ...], kept: tuple[Indices, ...], stage: int, final: bool
) -> dict[str, float]:
    moves.learn(Evidence(1, stage, 1, P, scored, (0.0,) * len(scored), kept, final))
    return moves.shares()


def constant(child: Indices) -> Callable[..., Indices]:
    return lambda space, parent, rng: child


def made(moves: AdaptiveMoves, space: SearchSpace) -> None:
    rng = Random(0)
    while len(moves._origin) < 2:
        moves(space, P, rng)


def test_what_survives_is_drawn_more_and_what_wins_more_still(toy: Toy) -> None:
    moves = AdaptiveMoves({"a": constant(A), "b": constant(B)}, floor=0.2)
    assert moves.shares() == {"a": 0.5, "b": 0.5}
    made(moves, toy(sizes=(1, 1, 1)))
    survived = told(moves, (A, B), (A,), stage=0, final=False)
    assert survived["a"] > survived["b"]
    won = told(moves, (P, A), (A,), stage=1, final=True)
    assert won["a"] > survived["a"]
    assert sum(won.values()) == pytest.approx(1)
    assert not moves._origin


def test_the_parents_victory_is_nobodys(toy: Toy) -> None:
    moves = AdaptiveMoves({"a": constant(A), "b": constant(B)})
    made(moves, toy(sizes=(1, 1, 1)))
    before = told(moves, (A, B), (), stage=0, final=False)
    assert told(moves, (P, A), (P,), stage=1, final=True) == before


def test_no_share_falls_below_its_floor_and_old_success_fades(toy: Toy) -> None:
    moves, space = AdaptiveMoves({"a": constant(A), "b": constant(B)}, floor=0.2, memory=0.8), toy(sizes=(1, 1, 1))
    for _ in range(60):
        made(moves, space)
        shares = told(moves, (P, A, B), (A,), stage=0, final=True)
    assert 0.1 <= shares["b"] < 0.25
    for _ in range(60):
        made(moves, space)
        shares = told(moves, (P, A, B), (B,), stage=0, final=True)
    assert shares["b"] > 0.75


def test_moves_are_drawn_by_their_shares(toy: Toy) -> None:
    moves, space, rng = AdaptiveMoves({"a": constant(A), "b": constant(B)}), toy(sizes=(1, 1, 1)), Random(0)
    moves._won["a"] = 10.0
    drawn = Counter(moves(space, P, rng) for _ in range(4000))
    assert drawn[A] / 4000 == pytest.approx(moves.shares()["a"], abs=0.03)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_every_child_fits_and_differs(spaces: st.SearchStrategy[SearchSpace], data: st.DataObject, seed: int) -> None:
    space, rng = data.draw(spaces), Random(seed)
    parent = random_start(space, rng)
    for mutate in default_moves().values():
        child = mutate(space, parent, rng)
        if child is not None:
            assert child != parent
            assert space.fits(child)
            assert all(0 <= level < len(unit.levels) for unit, level in zip(space.units, child, strict=True))


def test_several_moves_in_a_row(toy: Toy) -> None:
    space, rng = toy(sizes=(1,) * 40), Random(0)
    parent = (1,) * 40
    changed = [
        sum(a != b for a, b in zip(parent, child, strict=True))
        for child in (several(equal_switches, 4)(space, parent, rng) for _ in range(50))
        if child
    ]
    assert min(changed) > 4
    back = several(lambda space, parent, rng: (1,) * 40, 2)
    assert back(space, parent, rng) is None
    assert several(lambda space, parent, rng: None, 2)(space, parent, rng) is None


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="at least one move"):
        AdaptiveMoves({})
    with pytest.raises(ConfigError, match="floor is 2"):
        AdaptiveMoves({"a": free_switches}, floor=2)
