"""Baseline: ShortGPT, blocks that turn the hidden state least are dropped in one pass (Men et al. 2024, arXiv
2403.03853). Costs one pass over text before the search (`evopress.models.influence`) and one score.
"""

from __future__ import annotations

from evopress.core.space import SearchSpace
from evopress.search.baselines.spans import Table, drop_lowest, find_spans
from evopress.search.planned import OneBatch


class ShortGPT(OneBatch):
    """Drop the blocks of the least influence, `1 - mean cosine(input, output)`, and score that profile once.

    `cosine` is the table of mean token cosines, `Influence.cosine`.
    """

    def __init__(self, space: SearchSpace, cosine: Table, *, tokens: int) -> None:
        spans = find_spans(space, len(cosine))
        super().__init__([drop_lowest(space, spans, [1 - span.value(cosine) for span in spans])], tokens=tokens)
