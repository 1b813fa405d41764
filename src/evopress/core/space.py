"""The search space: which profiles are allowed, and what they cost.

Everything is integer arithmetic in the budget's own quantum, so that "meets the budget" is never a matter of rounding.
Inside a search a profile is a tuple of level indices, one per unit in the space's order; names appear only at the edge
(`encode`, `decode`). Building a space and every method is linear in the number of units; tables that mutations need in
their inner loop are computed once, on first use. There is no random number and no tensor in here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from operator import getitem
from typing import Literal

from evopress.core.bundles import Bundles, cheapest, check_bundles, count, floors, require_whole, whole
from evopress.core.costs import require_average
from evopress.core.profile import DROP, Profile, Unit
from evopress.errors import BudgetError, ConfigError, ProfileError

Exchange = Literal["size", "role", "any"]

Limit = tuple[tuple[int, ...], int]
"""Unit indices, and what these units may cost together."""


@dataclass(frozen=True)
class SearchSpace:
    """All profiles of `units` whose cost is at most `budget`.

    `groups` partitions the unit indices into exchange groups: a mutation moves cost between units of one group only.
    Where the split of the budget is part of the question (exactly k units of each kind dropped), `split` says what each
    group may cost at most and the budget is their sum; without it any split within the budget is allowed.
    `rungs`: level indices of what counts as uniform where units call their levels differently. `bundles`: units that
    are dropped together (see `core.bundles`), which no profile drops by half. Make one with `make_space`; ProfileError
    for a malformed space, BudgetError for a budget below the cheapest profile.
    """

    units: tuple[Unit, ...]
    budget: int
    groups: tuple[tuple[int, ...], ...]
    split: tuple[int, ...] | None = None
    rungs: tuple[tuple[int, ...], ...] = ()
    bundles: Bundles = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.units) or len(set(self.named)) != len(self.named):
            raise ProfileError(f"a space of {len(self.units)} units has {len(set(self.names))} names; make them unique")
        if sum(unit.size for unit in self.units) <= 0:
            raise ProfileError(f"a space of {len(self.units)} units holds no weights; give units with a size")
        if sorted(unit for group in self.groups for unit in group) != list(range(len(self.units))):
            raise ProfileError(f"the exchange groups do not hold each of the {len(self.units)} units exactly once")
        check_bundles(self.units, self.bundles)
        if self.budget < self.lowest:
            raise BudgetError(f"a budget of {self.budget} is below the cheapest profile, which costs {self.lowest}")
        if self.split is not None:
            self._check_split(self.split)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The units' names, in the space's order."""
        return tuple(unit.name for unit in self.units)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """What profiles name: the units, or the members of those that tie several weights together."""
        return tuple(name for unit in self.units for name in unit.named)

    @cached_property
    def costs(self) -> tuple[tuple[int, ...], ...]:
        """`costs[unit][level]`."""
        return tuple(tuple(level.cost for level in unit.levels) for unit in self.units)

    @cached_property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """`steps[unit][level]`: what raising that unit from that level to the next one costs."""
        return tuple(tuple(b - a for a, b in pairwise(costs)) for costs in self.costs)

    @cached_property
    def floors(self) -> tuple[int, ...]:
        """The lowest level of each unit that is kept."""
        return floors(len(self.units), self.bundles)

    @cached_property
    def roles(self) -> tuple[dict[str, tuple[tuple[int, ...], ...]], ...]:
        """For each exchange group: role -> its unit indices, one tuple per block, in order of blocks."""
        return tuple(self._roles(group) for group in self.groups)

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """Which units may cost how much together: each group its part of the split, or all units the budget."""
        if self.split is None:
            return ((tuple(range(len(self.units))), self.budget),)
        return tuple(zip(self.groups, self.split, strict=True))

    @cached_property
    def shares(self) -> tuple[int, ...]:
        """The budget of each exchange group: its part of the split if there is one. Without, every group gets the same
        fraction of the way from its lowest to its highest cost, rounded down to its own steps; what the rounding leaves
        goes to the largest steps that fit it.
        """
        if self.split is not None:
            return self.split
        if len(self.groups) == 1:
            return (self.budget,)
        low = [sum(self.costs[unit][0] for unit in group) for group in self.groups]
        room = [sum(self.costs[unit][-1] for unit in group) - low[g] for g, group in enumerate(self.groups)]
        step = [math.gcd(*(s for unit in group for s in self.steps[unit])) or 1 for group in self.groups]
        spare = min(self.budget - sum(low), sum(room))
        extra = [spare * own // (sum(room) or 1) // by * by for own, by in zip(room, step, strict=True)]
        spare -= sum(extra)
        for g in sorted(range(len(step)), key=lambda g: -step[g]):
            more = min(spare, room[g] - extra[g]) // step[g] * step[g]
            extra[g] += more
            spare -= more
        return tuple(a + b for a, b in zip(low, extra, strict=True))

    @property
    def lowest(self) -> int:
        """The cost of the cheapest profile."""
        return cheapest(self.costs, self.bundles)

    @property
    def highest(self) -> int:
        """The cost of the most expensive profile."""
        return sum(costs[-1] for costs in self.costs)

    @property
    def total_weights(self) -> int:
        """The number of weights of all units."""
        return sum(unit.size for unit in self.units)

    @property
    def n_profiles(self) -> int:
        """How many profiles there are if the budget is left aside: an upper bound of the space's size."""
        return count([len(unit.levels) for unit in self.units], self.bundles)

    def encode(self, profile: Profile) -> tuple[int, ...]:
        """The level indices of a profile in the space's order; ProfileError when units, levels or ties do not match,
        or where a bundle is dropped by half.
        """
        choice = dict(profile.items())
        if unknown := sorted(choice.keys() - set(self.named)):
            raise ProfileError(f"the profile names {len(unknown)} unknown units, first {unknown[0]!r}")
        if missing := [name for name in self.named if name not in choice]:
            raise ProfileError(f"the profile lacks {len(missing)} of {len(self.named)} units, first {missing[0]!r}")
        if len(profile) != len(choice):
            raise ProfileError(f"the profile names {len(profile)} units of which only {len(choice)} are different")
        indices = tuple(unit.chosen(choice) for unit in self.units)
        require_whole(self.units, self.bundles, indices)
        return indices

    def decode(self, indices: Sequence[int]) -> Profile:
        """The profile of level indices; the inverse of `encode`."""
        pairs = zip(self.units, indices, strict=True)
        return Profile(self.named, tuple(unit.levels[i].name for unit, i in pairs for _ in unit.named))

    def cost(self, choice: Profile | Sequence[int]) -> int:
        """The cost of a profile, or of level indices."""
        indices = self.encode(choice) if isinstance(choice, Profile) else choice
        return sum(map(getitem, self.costs, indices))

    def average(self, choice: Profile | Sequence[int]) -> float:
        """The cost per weight: average bits, where costs are bits."""
        return self.cost(choice) / self.total_weights

    def fits(self, choice: Profile | Sequence[int]) -> bool:
        """Whether no bundle is dropped by half, and the cost is within the budget and each part of its split."""
        indices = self.encode(choice) if isinstance(choice, Profile) else choice
        if not whole(self.bundles, indices):
            return False
        return all(sum(self.costs[unit][indices[unit]] for unit in units) <= most for units, most in self.limits)

    def validate(self, profile: Profile) -> None:
        """Raise ProfileError when the profile does not match the units, BudgetError when it is above the budget."""
        cost = self.cost(profile)
        if cost > self.budget:
            raise BudgetError(
                f"the profile costs {cost} ({cost / self.total_weights:.6g} a weight), which is above the budget of "
                f"{self.budget} ({self.budget / self.total_weights:.6g} a weight)"
            )
        indices = self.encode(profile)
        for units, most in self.limits:
            cost = sum(self.costs[unit][indices[unit]] for unit in units)
            if cost > most:
                raise BudgetError(f"the {self._like(units)} cost {cost}, above their part of the budget, {most}")

    def uniforms(self) -> list[Profile]:
        """The profiles with one level name everywhere, or the rungs, the cheapest first, whether they fit or not."""
        if self.rungs:
            return sorted(map(self.decode, self.rungs), key=self.cost)
        shared = [level.name for level in self.units[0].levels if level.name != DROP or not self.bundles]
        shared = [name for name in shared if all(any(name == o.name for o in unit.levels) for unit in self.units)]
        return sorted((Profile(self.named, (name,) * len(self.named)) for name in shared), key=self.cost)

    def uniform(self) -> Profile:
        """The most expensive profile with one level name everywhere that fits; BudgetError when there is none."""
        profiles = self.uniforms()
        fitting = [profile for profile in profiles if self.fits(profile)]
        if not fitting:
            raise BudgetError(f"none of the {len(profiles)} levels that all units have fits a budget of {self.budget}")
        return fitting[-1]

    def parts(self) -> tuple[SearchSpace, ...]:
        """The independent spaces that this one is made of: one for each group of a split budget, else itself."""
        if self.split is None:
            return (self,)
        return tuple(
            SearchSpace(tuple(self.units[unit] for unit in group), most, (tuple(range(len(group))),))
            for group, most in zip(self.groups, self.split, strict=True)
        )

    def _check_split(self, split: tuple[int, ...]) -> None:
        if len(split) != len(self.groups) or sum(split) != self.budget:
            raise ProfileError(f"the split {split} must hold {len(self.groups)} parts that add up to {self.budget}")
        for group, most in zip(self.groups, split, strict=True):
            least = sum(self.costs[unit][0] for unit in group)
            if most < least:
                raise BudgetError(f"the {self._like(group)} cost at least {least}, their part of the budget is {most}")

    def _like(self, units: Sequence[int]) -> str:
        return f"{len(units)} units like {self.names[units[0]]!r}"

    def _roles(self, group: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], ...]]:
        found: dict[str, dict[int, list[int]]] = {}
        for unit in sorted(group, key=lambda unit: self.units[unit].block):
            blocks = found.setdefault(self.units[unit].role, {})
            blocks.setdefault(self.units[unit].block, []).append(unit)
        return {role: tuple(map(tuple, blocks.values())) for role, blocks in found.items()}


Number = Fraction | str | float
"""A number that is taken exactly as it is written: 2.1 means 21/10, and "7/3" is understood."""


def make_space(
    units: Sequence[Unit],
    *,
    average: Number | None = None,
    share: Number | None = None,
    exchange: Exchange,
) -> SearchSpace:
    """The space of all profiles that cost at most `average` per weight, or `share` of the most expensive profile.

    The budget is `floor(average * number of weights)`, or `floor(share * highest cost)`, computed exactly.
    `exchange="size"` lets units trade only with units of the same size and level costs (the paper's groups for bits),
    `"any"` lets all units trade. `"role"` lets units trade within their role only and holds each role to the budget by
    itself (the paper's depth: as many attentions dropped as MLPs), whichever units are fixed. BudgetError when no
    profile could be as cheap, or as expensive, as asked.

    >>> from evopress.core.profile import Level
    >>> q = Unit("q", 0, "q", 10, (Level("2", 20), Level("4", 40)))
    >>> make_space([q], average=2.5, exchange="any").budget
    25
    """
    if exchange not in ("role", "size", "any"):
        raise ConfigError(f"unknown exchange {exchange!r}; use 'role', 'size' or 'any'")
    if (average is None) == (share is None):
        raise ConfigError(f"a budget is either an average or a share; got average {average} and share {share}")
    groups = exchange_groups(units, exchange)
    if exchange != "role":
        return SearchSpace(tuple(units), _budget(units, average, share), groups)
    members = [[units[unit] for unit in group] for group in groups]
    split = tuple(_budget(own, average, share, f" for role {own[0].role!r}") for own in members)
    return SearchSpace(tuple(units), sum(split), groups, split)


def _budget(units: Sequence[Unit], average: Number | None, share: Number | None, where: str = "") -> int:
    low, high = sum(unit.levels[0].cost for unit in units), sum(unit.levels[-1].cost for unit in units)
    if share is None:
        what, asked, whole = "average", average, sum(unit.size for unit in units)
    else:
        what, asked, whole = "share", share, high
    try:
        target = Fraction(str(asked))
    except (ValueError, ZeroDivisionError):
        raise BudgetError(f"the {what} {asked!r} is not a number; give one such as 3 or 2.5 or '7/3'") from None
    require_average(target, whole, low, high, f"the {what} {asked}{where}")
    return math.floor(target * whole)


def exchange_groups(units: Sequence[Unit], exchange: Exchange) -> tuple[tuple[int, ...], ...]:
    """Unit indices by what may trade: all with all, equal roles, or equal sizes and costs."""
    keys: dict[Exchange, Callable[[Unit], object]] = {
        "any": lambda unit: None,
        "role": lambda unit: unit.role,
        "size": lambda unit: (unit.size, tuple(level.cost for level in unit.levels)),
    }
    groups: dict[object, list[int]] = {}
    for i, unit in enumerate(units):
        groups.setdefault(keys[exchange](unit), []).append(i)
    return tuple(map(tuple, groups.values()))
