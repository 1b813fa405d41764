"""Baseline: Shortened Llama, the blocks without which the model stays best, one at a time, are dropped together (Kim et
al. 2024, arXiv 2402.02834). Costs one score for each block, on one minibatch, and one for the result.

The authors measure perplexity; here it is whatever fitness the evaluator has.
"""

from __future__ import annotations

from evopress.core.space import SearchSpace
from evopress.search.baselines.spans import drop, drop_in_order, drop_lowest, find_spans
from evopress.search.effort import Effort
from evopress.search.planned import Plan, Planned
from evopress.search.types import Batch


class ShortenedLlama(Planned):
    """Score the model of `n_blocks` blocks without each block, drop those that were missed least, score the result.

    Until the blocks are scored `best` drops the last ones.
    """

    def __init__(self, space: SearchSpace, n_blocks: int, *, tokens: int) -> None:
        self._space, self._tokens = space, tokens
        self._spans = [span for span in find_spans(space, n_blocks) if span.droppable]
        super().__init__(drop_in_order(space, self._spans[::-1]))

    @property
    def effort(self) -> Effort:
        """What will be scored."""
        return Effort(len(self._spans) + 1, self._tokens)

    def plan(self) -> Plan:
        """One batch of single blocks, which are above the budget, and one of the result."""
        singles = tuple(self._space.decode(drop(self._space, [span])) for span in self._spans)
        scores = yield Batch(0, 0, self._tokens, singles)
        self.best = drop_lowest(self._space, self._spans, scores)
        scores = yield Batch(1, 0, self._tokens, (self.best,))
        self.choose((self.best,), scores)
