"""Baseline: Weight Subcloning, blocks that add least to the hidden state are dropped in one pass (Samragh et al. 2023,
arXiv 2312.09299). Costs one pass over text before the search (`evopress.models.influence`) and one score.
"""

from __future__ import annotations

from evopress.core.space import SearchSpace
from evopress.search.baselines.spans import Table, drop_lowest, find_spans
from evopress.search.planned import OneBatch


class WeightSubcloning(OneBatch):
    """Drop the blocks of the least mean `||output - input|| / ||output||` and score that profile once.

    `change` is the table of these ratios, `Influence.change`.
    """

    def __init__(self, space: SearchSpace, change: Table, *, tokens: int) -> None:
        spans = find_spans(space, len(change))
        super().__init__([drop_lowest(space, spans, [span.value(change) for span in spans])], tokens=tokens)
