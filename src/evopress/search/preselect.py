"""More offspring are drawn than are scored: a surrogate ranks the pool before any forward pass.

The mutations stay what they are; a pool of them costs milliseconds where a score costs seconds. A part of the scored
offspring stays blind, chosen by nothing: a surrogate that is wrong somewhere would never be told otherwise. No random
number is drawn here, and which profile becomes the next parent remains a matter of scores alone.
"""

from __future__ import annotations

from evopress.errors import ConfigError
from evopress.search.learner import Evidence, Learner
from evopress.search.moves.mutation import Indices
from evopress.search.surrogate import Surrogate


class Preselect(Learner):
    """Draw `pool` times the offspring and keep those of the least predicted score.

    The part `blind` of the kept offspring, rounded down, are the first of the pool, whatever is predicted for them.
    """

    def __init__(self, surrogate: Surrogate, *, pool: int = 8, blind: float = 0.25) -> None:
        if pool < 1:
            raise ConfigError(f"the pool is {pool} times the offspring; it must be 1 or more")
        if not 0 <= blind <= 1:
            raise ConfigError(f"blind is {blind}; it must be between 0 and 1")
        self.surrogate, self.pool, self.blind = surrogate, pool, blind

    def keep(self, parent: Indices, children: list[Indices], count: int) -> list[Indices]:
        """At most `count` of the children: blind ones first, then the most promising, best first."""
        blind = min(int(self.blind * count), len(children))
        if len(children) <= count:
            return children
        others = children[blind:]
        order = self.surrogate.predict_all(parent, others)[0].argsort(kind="stable")
        return children[:blind] + [others[i] for i in order[: count - blind]]

    def learn(self, evidence: Evidence) -> None:
        """The surrogate learns from every batch."""
        self.surrogate.learn(evidence)
