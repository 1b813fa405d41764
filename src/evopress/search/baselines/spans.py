"""What the whole-block baselines drop: one block after another, whatever the units of the space are.

A span is a block with all its units (attention and MLP), or the run of blocks that one unit covers (a pair). These
baselines know an order of spans and nothing of budgets: spans are dropped in that order until the budget is met, so
that exactly k go where the budget is that of k blocks. Where spans weigh differently, those dropped early that turn
out to fit again are kept. A budget that is no whole number of blocks is met from below: what is left is not spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evopress.core.profile import DROP, Profile
from evopress.core.space import SearchSpace
from evopress.errors import BudgetError, ConfigError, ProfileError
from evopress.search.moves.mutation import Indices
from evopress.search.planned import ranked

Table = Sequence[Sequence[float]]
"""`table[i][n]`: something measured between the input of block i and the output of block i + n."""


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks `first` to `last` and the indices of their units; `droppable` if no unit among them must be kept."""

    units: tuple[int, ...]
    first: int
    last: int
    droppable: bool

    def value(self, table: Table) -> float:
        """What the table says between the span's input and its output."""
        return table[self.first][self.last - self.first]


def find_spans(space: SearchSpace, n_blocks: int) -> tuple[Span, ...]:
    """The spans of a model of `n_blocks` blocks, in order. A span ends where the next begins.

    ConfigError when no unit can be dropped, ProfileError when the units do not cover the blocks evenly.
    """
    if not any(unit.levels[0].name == DROP for unit in space.units):
        raise ConfigError(f"none of the {len(space.units)} units has the level {DROP!r}; this baseline is for depth")
    members: dict[int, list[int]] = {}
    for index, unit in enumerate(space.units):
        members.setdefault(unit.block, []).append(index)
    starts = sorted(members)
    widths = [end - start for start, end in zip(starts, [*starts[1:], n_blocks], strict=True)]
    if starts[0] != 0 or min(widths) < 1 or len({*widths[:-1]}) > 1 or widths[-1] > widths[0]:
        raise ProfileError(f"units at blocks {', '.join(map(str, starts))} do not cover a model of {n_blocks} blocks")
    return tuple(
        Span(
            units=tuple(members[start]),
            first=start,
            last=start + width - 1,
            droppable=all(space.units[unit].levels[0].name == DROP for unit in members[start]),
        )
        for start, width in zip(starts, widths, strict=True)
    )


def drop(space: SearchSpace, spans: Iterable[Span]) -> Indices:
    """Level indices with these spans dropped and all else at its highest level."""
    levels = [len(unit.levels) - 1 for unit in space.units]
    for span in spans:
        for unit in span.units:
            levels[unit] = 0
    return tuple(levels)


def drop_in_order(space: SearchSpace, spans: Sequence[Span]) -> Profile:
    """Drop the first of `spans` until the budget is met; BudgetError when dropping all of them does not meet it."""
    count = next((count for count in range(len(spans) + 1) if space.fits(drop(space, spans[:count]))), None)
    if count is None:
        cost = space.cost(drop(space, spans))
        raise BudgetError(
            f"dropping all {len(spans)} blocks that may be dropped leaves a cost of {cost}, above the budget of "
            f"{space.budget}; let more be dropped"
        )
    dropped = list(spans[:count])
    for span in reversed(spans[:count]):
        without = [other for other in dropped if other is not span]
        if space.fits(drop(space, without)):
            dropped = without
    return space.decode(drop(space, dropped))


def drop_lowest(space: SearchSpace, spans: Sequence[Span], values: Sequence[float]) -> Profile:
    """Drop the droppable spans of the lowest values until the budget is met, the first of equals first."""
    return drop_in_order(space, [spans[at] for at in ranked(values) if spans[at].droppable])
