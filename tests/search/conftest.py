"""Small spaces and toy fitness functions that all search tests share."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import strategies as st

from evopress.profile import Level, Profile, Unit
from evopress.search import Evaluate
from evopress.space import SearchSpace, make_space


def toy_space(
    sizes: Sequence[int] = (1, 1, 1, 1, 1, 1),
    average: str = "3",
    exchange: str = "any",
    bits: Sequence[int] = (2, 3, 4),
) -> SearchSpace:
    """One unit per size, two roles in turn, two units per block, levels of that many bits."""
    units = [
        Unit(f"u{i}", i // 2, "ab"[i % 2], size, tuple(Level(str(b), b * size) for b in bits))
        for i, size in enumerate(sizes)
    ]
    return make_space(units, average=average, exchange=exchange)  # type: ignore[arg-type]


def linear(space: SearchSpace, seed: int = 0, power: int = 1) -> Evaluate:
    """A noise-free fitness: each unit has a random weight; the more it is compressed the worse."""
    rng = Random(seed)
    weights = [rng.uniform(0.1, 1.0) for _ in space.units]

    def score(profile: Profile) -> float:
        lost = (len(u.levels) - 1 - i for u, i in zip(space.units, space.encode(profile), strict=True))
        return sum(w * steps**power for w, steps in zip(weights, lost, strict=True))

    return lambda profiles, tokens: [score(profile) for profile in profiles]


@st.composite
def random_spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of up to 9 units with up to 3 kinds of costs, awkward steps included, and any feasible budget."""
    kind = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    kinds = draw(st.lists(st.tuples(st.integers(1, 12), kind), min_size=1, max_size=3))
    units = []
    for i in range(draw(st.integers(1, 9))):
        size, steps = draw(st.sampled_from(kinds))
        costs = [size + sum(steps[:n]) for n in range(len(steps) + 1)]
        levels = tuple(Level(f"L{n}", cost) for n, cost in enumerate(costs))
        units.append(Unit(f"u{i}", draw(st.integers(0, 4)), draw(st.sampled_from("ab")), size, levels))
    low, high = (sum(unit.levels[end].cost for unit in units) for end in (0, -1))
    average = f"{draw(st.integers(low, high))}/{sum(unit.size for unit in units)}"
    return make_space(units, average=average, exchange=draw(st.sampled_from(["size", "any"])))


@pytest.fixture(scope="session")
def toy() -> Callable[..., SearchSpace]:
    """`toy_space`."""
    return toy_space


@pytest.fixture(scope="session")
def fitness() -> Callable[..., Evaluate]:
    """`linear`."""
    return linear


@pytest.fixture(scope="session")
def spaces() -> st.SearchStrategy[SearchSpace]:
    """`random_spaces`, to be drawn from."""
    return random_spaces()
