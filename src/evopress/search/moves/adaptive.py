"""Moves of several sizes, each drawn as often as it has been good for something lately.

Early in a search whole roles and bands gain most, later single switches do, and how long "early" lasts differs from
model to model. So every kind of move has a record of how many of its offspring survived the first stage, a generation's
winner counting more, old generations fading. A kind is drawn in proportion to its rate of survival, and never less
often than its floor: what is useless now may be useful later. The records cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from evopress.core.space import SearchSpace
from evopress.errors import ConfigError
from evopress.search.learner import Evidence, Learner
from evopress.search.moves.mutation import Indices, Mutation, bands, free_switches, roles

PRIZE = 3.0
"""Survivors that a generation's winner counts as."""


class AdaptiveMoves(Learner):
    """A mutation that draws one of several `moves` by its success; the `floor` is shared by all alike.

    `memory` of a record is left after each generation. A winner counts as PRIZE survivors.

    >>> moves = AdaptiveMoves({"switch": free_switches, "bands": bands}, floor=0.2)
    >>> moves.shares()
    {'switch': 0.5, 'bands': 0.5}
    """

    def __init__(
        self,
        moves: Mapping[str, Mutation] | None = None,
        *,
        floor: float = 0.2,
        memory: float = 0.9,
    ) -> None:
        self._moves = dict(default_moves() if moves is None else moves)
        if not self._moves:
            raise ConfigError("adaptive moves need at least one move; there is none")
        for name, value in (("floor", floor), ("memory", memory)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; it must be between 0 and 1")
        self._floor, self._memory = floor, memory
        self._tried, self._won = dict.fromkeys(self._moves, 0.0), dict.fromkeys(self._moves, 0.0)
        self._origin: dict[Indices, str] = {}

    def __call__(self, space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
        """An offspring by a move drawn now; None when the move led nowhere."""
        shares = self.shares()
        name = rng.choices(list(shares), weights=list(shares.values()))[0]
        child = self._moves[name](space, parent, rng)
        if child is not None:
            self._origin.setdefault(child, name)
        return child

    def shares(self) -> dict[str, float]:
        """How often each move is drawn; the sum is 1."""
        rates = {name: (self._won[name] + 1.0) / (self._tried[name] + 2.0) for name in self._moves}
        total, least = sum(rates.values()), self._floor / len(rates)
        return {name: least + (1.0 - self._floor) * rate / total for name, rate in rates.items()}

    def learn(self, evidence: Evidence) -> None:
        """Count offspring and survivors of the first stage, and the winner of the last."""
        if evidence.stage == 0:
            for name in self._moves:
                self._tried[name] *= self._memory
                self._won[name] *= self._memory
            self._count(self._tried, evidence.parent, evidence.candidates, 1.0)
            if not evidence.final:
                self._count(self._won, evidence.parent, evidence.kept, 1.0)
        if evidence.final:
            self._count(self._won, evidence.parent, evidence.kept, PRIZE)
            self._origin.clear()

    def _count(self, record: dict[str, float], parent: Indices, candidates: tuple[Indices, ...], worth: float) -> None:
        """Add to the moves that made these candidates; the parent, and what other moves made, belong to none."""
        for candidate in candidates:
            if candidate in self._origin and candidate != parent:
                record[self._origin[candidate]] += worth


def several(move: Mutation, times: int) -> Mutation:
    """A move made `times` times in a row; None as soon as one of them leads nowhere, or all of them back."""

    def mutate(space: SearchSpace, parent: Indices, rng: Random) -> Indices | None:
        child: Indices | None = parent
        for _ in range(times):
            child = move(space, child, rng) if child is not None else None
        return child if child != parent else None

    return mutate


def default_moves(single: Mutation = free_switches) -> dict[str, Mutation]:
    """One to three switches, about six of them, bands, and whole roles."""
    return {"switch": single, "switches": several(single, 4), "bands": bands, "roles": roles}
