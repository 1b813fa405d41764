"""The sensitivities of embedding and head, where they are units: what a level moves is found by running that end again.

The embedding moves the first block's input and the head the logits; with the gradients there, the sums are those of a
linear. A weight that is both gets both sums. Cost: for each other level one embedding, or one product with the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evopress.core.profile import Profile
from evopress.fitness.evaluator import Evaluator
from evopress.models.assemble import EMBEDDING, HEAD
from evopress.models.ends import head_unit

Sums = Mapping[str, Mapping[str, Tensor]]
"""unit -> level -> the two sums of `moments`, float64 on the CPU."""


def moments(moved: Tensor, kl: Tensor, nll: Tensor) -> Tensor:
    """Sum of kl . moved and of (nll . moved)^2 over all rows, each (tokens, width)."""
    first = (moved * kl).sum(-1).double().sum()
    second = (moved * nll).sum(-1).double().square().sum()
    return torch.stack([first, second]).cpu()


def others(levels: Iterable[str], own: str) -> list[str]:
    """The levels that would change something."""
    return [level for level in levels if level != own]


@dataclass(frozen=True)
class Ends:
    """Adds to `sums` what the levels of the two ends would move at `profile`; nothing where the ends are no units."""

    evaluator: Evaluator
    profile: Profile
    sums: Sums

    @torch.no_grad()
    def add_head(self, student: Tensor, kl: Tensor, nll: Tensor) -> None:
        """Head inputs (tokens, width) and the gradients with respect to their logits (tokens, vocabulary)."""
        runner, use = self.evaluator.runner, self.evaluator.assembly.use
        unit = head_unit(runner.model, runner.map)
        if unit is None:
            return
        own = self.profile[unit.name]
        logits = runner.logits(student)
        for level in others(self.sums[unit.name], own):
            use(HEAD, (level,))
            self.sums[unit.name][level].add_(moments(runner.logits(student) - logits, kl, nll))
        use(HEAD, (own,))

    @torch.no_grad()
    def add_embedding(self, ids: Tensor, kl: Tensor, nll: Tensor) -> None:
        """Token ids (batch, length) and the gradients with respect to the first block's input."""
        runner, use = self.evaluator.runner, self.evaluator.assembly.use
        for unit in runner.map.of_block(EMBEDDING):
            own = self.profile[unit.name]
            use(EMBEDDING, (own,))
            hidden = runner.begin(ids)[0]
            for level in others(self.sums[unit.name], own):
                use(EMBEDDING, (level,))
                moved = (runner.begin(ids)[0] - hidden).float().flatten(0, 1)
                self.sums[unit.name][level].add_(moments(moved, kl.flatten(0, 1), nll.flatten(0, 1)))
