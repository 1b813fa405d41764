"""Text on its way through the blocks twice: as the dense model sees it, and as the compressed model does so far.

Both are kept between blocks for all sequences, in the model's dtype: two numbers for each token and channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from evopress.models.runner import Contexts, Runner

Pass = Callable[[Tensor, Contexts], Tensor]
"""Hidden states (batch, length, width) and their contexts -> the next hidden states."""


@dataclass(frozen=True)
class Part:
    """Some sequences of one length: number `group` of the text's lengths, and which of its sequences."""

    group: int
    members: Tensor


@dataclass
class Text:
    """Token sequences by length, `ids` each (sequences, length), that go through a model in parts of a few sequences.

    The contexts of a block depend on the shape of its input alone, so they are made once for each shape.
    """

    runner: Runner
    ids: list[Tensor]
    part_tokens: int
    _contexts: dict[tuple[int, int], Contexts] = field(default_factory=dict)

    @classmethod
    def of(cls, runner: Runner, sequences: Sequence[Tensor], part_tokens: int) -> Text:
        """Sequences of equal length together, in the order of their first ones."""
        lengths = dict.fromkeys(len(sequence) for sequence in sequences)
        return cls(runner, [torch.stack([s for s in sequences if len(s) == n]) for n in lengths], part_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(ids.numel() for ids in self.ids)

    def parts(self, generator: torch.Generator | None = None) -> list[Part]:
        """All sequences once, in parts of at most `part_tokens` tokens or one sequence; with a generator, shuffled."""
        found = []
        for group, ids in enumerate(self.ids):
            count, length = ids.shape
            order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
            found += [Part(group, members) for members in torch.split(order, max(1, self.part_tokens // length))]
        if generator is None:
            return found
        return [found[place] for place in torch.randperm(len(found), generator=generator).tolist()]

    def begin(self) -> list[Tensor]:
        """The first block's inputs, by length."""
        return self._joined(lambda part: self.runner.begin(self.tokens_of(part))[0])

    def through(self, hidden: Sequence[Tensor], run: Pass) -> list[Tensor]:
        """All hidden states, by length, once through `run`, without gradients."""
        with torch.no_grad():
            return self._joined(lambda part: run(pick(hidden, part), self.contexts(part)))

    def contexts(self, part: Part) -> Contexts:
        """What blocks are called with beside hidden states of the shape of this part."""
        shape = len(part.members), self.ids[part.group].shape[1]
        if shape not in self._contexts:
            self._contexts[shape] = self.runner.begin(self.tokens_of(part))[1]
        return replace(self._contexts[shape], ids=self.tokens_of(part))

    def tokens_of(self, part: Part) -> Tensor:
        """The ids (sequences, length) of a part, on the model's device."""
        return self.ids[part.group][part.members].to(self.runner.device)

    def _joined(self, make: Callable[[Part], Tensor]) -> list[Tensor]:
        made: list[list[Tensor]] = [[] for _ in self.ids]
        for part in self.parts():
            made[part.group].append(make(part))
        return [torch.cat(parts) for parts in made]


def pick(hidden: Sequence[Tensor], part: Part) -> Tensor:
    """The hidden states (sequences, length, width) of a part."""
    group = hidden[part.group]
    return group[part.members.to(group.device)]


def epochs(text: Text, count: int, seed: int) -> Iterator[tuple[int, list[Part]]]:
    """(epoch, its parts) of `count` epochs over a text, in an order that depends on `seed` and the epoch alone."""
    for epoch in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield epoch, text.parts(generator)
