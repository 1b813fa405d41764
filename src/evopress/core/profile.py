"""Units, levels and profiles: the data that every other part exchanges.

A profile is a plan, not an action: it says which unit gets which level and knows nothing of tensors, files or models.
Keeping it immutable and hashable makes duplicates, caches and journals trivial. This module imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from evopress.errors import ProfileError

DROP, KEEP = "drop", "keep"
"""The levels of what can be left out."""

DENSE = "16"
"""The level of a weight that stays as it is, where a run has such a level: in half precision it has 16 bits."""

DENSE_BITS = 16
"""Bits a dense weight counts as, whatever dtype the run computes in: half precision is what models are served in."""


@dataclass(frozen=True, slots=True)
class Level:
    """One way to compress a unit. `cost` is an integer in the budget's own quantum (bits of storage, weights, ...)."""

    name: str
    cost: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A thing that gets a level: one weight matrix or one sub-layer.

    `block` is the index of the decoder block it lies in, `role` its place inside the block (`self_attn.q_proj`), `size`
    its number of weights. `levels` are in order of strictly increasing cost, the most compressed first. A unit that
    ties several weights together has their units as `members`: profiles name these, and all of them have its level.
    """

    name: str
    block: int
    role: str
    size: int
    levels: tuple[Level, ...]
    members: tuple[Unit, ...] = ()

    def __post_init__(self) -> None:
        costs = [level.cost for level in self.levels]
        if not costs or any(a >= b for a, b in pairwise(costs)):
            raise ProfileError(f"unit {self.name}: level costs {costs} must be non-empty and strictly increasing")

    @property
    def parts(self) -> tuple[Unit, ...]:
        """The units that it ties together, or itself."""
        return self.members or (self,)

    @property
    def named(self) -> tuple[str, ...]:
        """What a profile names of this unit."""
        return tuple(part.name for part in self.parts)

    def chosen(self, choice: Mapping[str, str]) -> int:
        """The position of the level that names have in `choice`; ProfileError where the members' levels differ."""
        first, *others = self.named
        for other in others:
            if choice[other] != choice[first]:
                raise ProfileError(
                    f"{first} has level {choice[first]!r} and {other} {choice[other]!r}; the run's target fuses them, "
                    f"so they must have the same"
                )
        return self.index(choice[first])

    def index(self, level: str) -> int:
        """Position of the level named `level`; ProfileError lists the known names."""
        for i, known in enumerate(self.levels):
            if known.name == level:
                return i
        known_names = ", ".join(known.name for known in self.levels)
        raise ProfileError(f"unit {self.name}: unknown level {level!r}, it has {known_names}")


def tie(units: Sequence[Unit], name: str = "", role: str = "") -> Unit:
    """One unit for several of a block, with the levels that all of them have; itself where there is only one.

    By default its `name` and `role` list theirs.

    >>> q, k = (Unit(f"0.attn.{n}", 0, f"attn.{n}", 8, (Level("3", 24), Level("4", 32))) for n in "qk")
    >>> both = tie([q, k])
    >>> both.name, both.size, both.levels[0], both.named
    ('0.attn.q+k', 16, Level(name='3', cost=48), ('0.attn.q', '0.attn.k'))
    """
    first, *others = units
    if not others:
        return first
    shared = set.intersection(*({level.name for level in unit.levels} for unit in units))
    names = [level.name for level in first.levels if level.name in shared]
    costs = [sum(unit.levels[unit.index(name)].cost for unit in units) for name in names]
    return Unit(
        name=name or "+".join([first.name, *(unit.name.rpartition(".")[2] for unit in others)]),
        block=first.block,
        role=role or "+".join([first.role, *(unit.role.rpartition(".")[2] for unit in others)]),
        size=sum(unit.size for unit in units),
        levels=tuple(map(Level, names, costs)),
        members=tuple(part for unit in units for part in unit.parts),
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """The choice of one level for every unit: `names[i]` gets `levels[i]`.

    >>> profile = Profile.of({"blocks.0.q": "3", "blocks.0.k": "4"})
    >>> profile["blocks.0.k"]
    '4'
    >>> print(profile.to_text(), end="")
    blocks.0.q: 3
    blocks.0.k: 4
    """

    names: tuple[str, ...]
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.levels):
            raise ProfileError(f"{len(self.names)} units but {len(self.levels)} levels; give one level for each unit")

    @classmethod
    def of(cls, choice: Mapping[str, str]) -> Profile:
        """A profile from a mapping of unit name to level name, in the mapping's order."""
        return cls(tuple(choice), tuple(choice.values()))

    def __getitem__(self, name: str) -> str:
        try:
            return self.levels[self.names.index(name)]
        except ValueError:
            raise ProfileError(f"unknown unit {name!r} in a profile of {len(self.names)} units") from None

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[tuple[str, str]]:
        """Pairs of unit name and level name."""
        return zip(self.names, self.levels, strict=True)

    def to_text(self) -> str:
        """The official code's text format: one `name: level` line for each unit."""
        return "".join(f"{name}: {level}\n" for name, level in self.items())

    @classmethod
    def from_text(cls, text: str) -> Profile:
        """Read the official code's text format; ProfileError names the first line that is not `name: level`."""
        choice: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            name, separator, level = (part.strip() for part in line.rpartition(":"))
            if not separator or not name or not level:
                raise ProfileError(f"line {number} of the profile is {line!r}; expected 'name: level'")
            if name in choice:
                raise ProfileError(f"line {number} of the profile names {name} a second time")
            choice[name] = level
        return cls.of(choice)


def nearest_level(costs: Mapping[str, int], budget: Fraction) -> str:
    """The level whose cost comes nearest to the budget; of two that are as near, the larger.

    >>> nearest_level({"2": 2, "3": 3, "4": 4}, Fraction("2.5"))
    '3'
    """
    return min(costs, key=lambda level: (abs(costs[level] - budget), -costs[level]))
