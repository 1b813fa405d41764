"""Toy spaces and landscapes whose answers are known."""

from collections.abc import Callable, Sequence

import pytest

from evopress.core.profile import Level, Profile, Unit
from evopress.core.space import SearchSpace
from evopress.search import Evaluate

Score = Callable[[Profile], float]


def bit_space(units: int = 12, groups: int = 1, average: int = 3) -> SearchSpace:
    """Units of one size with 2, 3, 4 or 5 bits, dealt to exchange groups in turn."""
    levels = tuple(Level(str(bits), bits) for bits in (2, 3, 4, 5))
    members = [tuple(range(first, units, groups)) for first in range(groups)]
    every = tuple(Unit(f"u{i}", i, "u", 1, levels) for i in range(units))
    return SearchSpace(every, average * units, tuple(members))


def drop_space(blocks: int = 6, k: int = 2, protected: Sequence[str] = ()) -> SearchSpace:
    """Attention and MLP of each block, k of each kind dropped; protected units can only be kept."""
    drop, keep = Level("drop", 0), Level("keep", 1)
    units = []
    for block in range(blocks):
        for role, size in (("attn", 3), ("mlp", 5)):
            name = f"{block}.{role}"
            units.append(Unit(name, block, role, size, (keep,) if name in protected else (drop, keep)))
    kinds = [tuple(i for i, unit in enumerate(units) if unit.role == role) for role in ("attn", "mlp")]
    return SearchSpace(tuple(units), 2 * (blocks - k), tuple(kinds))


def scored(score: Score) -> Evaluate:
    """A noise-free scoring function."""
    return lambda profiles, tokens: [score(profile) for profile in profiles]


@pytest.fixture(scope="session")
def bits() -> Callable[..., SearchSpace]:
    """`bit_space`."""
    return bit_space


@pytest.fixture(scope="session")
def drops() -> Callable[..., SearchSpace]:
    """`drop_space`."""
    return drop_space


@pytest.fixture(scope="session")
def exact() -> Callable[[Score], Evaluate]:
    """`scored`."""
    return scored
