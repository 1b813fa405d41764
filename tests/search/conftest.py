"""Small spaces and toy fitness functions that all search tests share."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import strategies as st

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace, make_space
from evopress.search import Evaluate

ROLES = ("attn", "mlp")


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


def drop_space(
    blocks: int = 6,
    k: int = 2,
    kind: str = "sublayer",
    exchange: str = "role",
    protected: Sequence[str] = (),
    weights: tuple[int, int] = (3, 5),
    count: bool = False,
) -> SearchSpace:
    """Units that are dropped or kept, all but k blocks' worth of them; `weights` are those of attention and MLP.

    They cost their weights, or with `count` as many as there are sub-layers in them.
    """
    if kind == "sublayer":
        parts = [
            (f"{b}.{role}", b, role, size) for b in range(blocks) for role, size in zip(ROLES, weights, strict=True)
        ]
    else:
        width = 2 if kind == "pair" else 1
        parts = [(f"{b}", b, kind, width * sum(weights)) for b in range(0, blocks, width)]
        blocks = len(parts)
    ones = 1 if kind == "sublayer" else 2 * width
    units = []
    for name, block, role, size in parts:
        keep = Level("keep", ones if count else size)
        units.append(Unit(name, block, role, size, (keep,) if name in protected else (Level("drop", 0), keep)))
    return make_space(units, share=Fraction(blocks - k, blocks), exchange=exchange)  # type: ignore[arg-type]


def sparse_space(
    sizes: Sequence[int] = (40, 60, 80, 40, 60, 80), sparsity: str = "0.6", step: int = 4, reach: int = 3
) -> SearchSpace:
    """Levels `-reach` to `reach` around the sparsity, `step` weights apart; three units a block, all exchange."""
    units = []
    for i, size in enumerate(sizes):
        middle = round((1 - Fraction(sparsity)) * size)
        costs = {f"{n:+d}" if n else "0": middle + n * step for n in range(-reach, reach + 1)}
        levels = tuple(Level(name, cost) for name, cost in costs.items() if 0 <= cost <= size)
        units.append(Unit(f"u{i}", i // 3, "qkv"[i % 3], size, levels))
    budget = sum(next(level.cost for level in unit.levels if level.name == "0") for unit in units)
    return SearchSpace(tuple(units), budget, (tuple(range(len(units))),))


@st.composite
def drop_spaces(draw: st.DrawFn) -> SearchSpace:
    """Depth: every granularity and exchange, with some units that must be kept in whole blocks."""
    kind = draw(st.sampled_from(["sublayer", "block", "pair"]))
    blocks = draw(st.integers(3, 9)) * (2 if kind == "pair" else 1)
    starts = range(0, blocks, 2 if kind == "pair" else 1)
    kept = draw(st.sets(st.sampled_from(starts), max_size=len(starts) - 2))
    roles = ROLES if kind == "sublayer" else [""]
    protected = [f"{block}.{role}".rstrip(".") for block in kept for role in roles]
    k = draw(st.integers(1, len(starts) - len(kept) - 1))
    weights = draw(st.sampled_from([(3, 5), (4, 4), (1, 1)]))
    exchange = draw(st.sampled_from(["role", "size", "any"]))
    return drop_space(blocks, k, kind, exchange, protected, weights, draw(st.booleans()))


@st.composite
def sparse_spaces(draw: st.DrawFn) -> SearchSpace:
    """Sparsity: equal steps, units of several sizes, levels clipped where they would leave 0 to 100 %."""
    sizes = draw(st.lists(st.sampled_from([20, 36, 50]), min_size=2, max_size=8))
    sparsity = draw(st.sampled_from(["0.3", "0.5", "0.62", "0.9"]))
    return sparse_space(sizes, sparsity, draw(st.integers(1, 5)), draw(st.integers(1, 8)))


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


@pytest.fixture(scope="session")
def drops() -> Callable[..., SearchSpace]:
    """`drop_space`."""
    return drop_space


@pytest.fixture(scope="session")
def sparse() -> Callable[..., SearchSpace]:
    """`sparse_space`."""
    return sparse_space


@pytest.fixture(scope="session")
def depths() -> st.SearchStrategy[SearchSpace]:
    """`drop_spaces`, to be drawn from."""
    return drop_spaces()


@pytest.fixture(scope="session")
def sparsities() -> st.SearchStrategy[SearchSpace]:
    """`sparse_spaces`, to be drawn from."""
    return sparse_spaces()
