"""Candidates x token ids -> the inputs of their heads, in as few block passes as the candidates' differences allow.

Candidates walk through the blocks together as a tree: those that agree on all blocks so far share one hidden state, and
the tree forks at the first block where they differ. So an offspring starts where it leaves its parent, without anybody
knowing who the parent is, and nothing is kept between calls. Every pass has the shape that it would have without
sharing, so the results are the same bits, unless passes of equal levels are merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from evopress.models.assemble import EMBEDDING, HEAD, Assembly, Choice
from evopress.models.runner import Contexts, Runner

Student = tuple[Tensor, Choice | None]
"""A candidate's head inputs (batch, length, hidden), or some of their rows, and the choice of its head."""


@dataclass
class Work:
    """What was done, counted in passes of one block over one batch for one candidate."""

    passes: int = 0
    passes_without_sharing: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Tree:
    """How candidates walk: `share` equal beginnings; go through a block together, at most `merged_tokens` in a pass."""

    runner: Runner
    assembly: Assembly
    work: Work
    share: bool
    merged_tokens: int

    def walk(self, candidates: Sequence[Sequence[Choice]], ids: Tensor) -> list[Student]:
        """Every candidate's answer to `ids` (batch, length)."""
        embeddings = list(dict.fromkeys(candidate[EMBEDDING] for candidate in candidates))
        roots = [_Root(self, choice, ids) for choice in embeddings]
        nodes = [_Node(root, root.hidden) for root in roots]
        at = [embeddings.index(candidate[EMBEDDING]) for candidate in candidates]
        for block in range(self.runner.map.n_blocks):
            edges = [(node, candidate[block]) for node, candidate in zip(at, candidates, strict=True)]
            keys = list(edges) if self.share else [(i, *edge) for i, edge in enumerate(edges)]
            first = {key: edges[i] for i, key in reversed(list(enumerate(keys)))}
            order = sorted(first, key=lambda key: _sort_key(first[key]))
            number = {key: i for i, key in enumerate(order)}
            following: list[_Node] = []
            for choice, same in groupby((first[key] for key in order), key=lambda edge: edge[1]):
                self.assembly.use(block, choice)
                following += self._advance(block, [nodes[node] for node, _ in same])
            nodes, at = following, [number[key] for key in keys]
            self.work.passes += len(nodes)
            self.work.passes_without_sharing += len(candidates)
        finished = [self.runner.finish(node.hidden, node.root.contexts(1)) for node in nodes]
        return [(finished[node], candidate[HEAD]) for node, candidate in zip(at, candidates, strict=True)]

    def _advance(self, block: int, nodes: Sequence[_Node]) -> Iterator[_Node]:
        """Each node one block further, in the levels that the block has now."""
        for root, same in groupby(nodes, key=lambda node: node.root):
            waiting = [node.hidden for node in same]
            while waiting:
                copies = _power_of_two(min(len(waiting), self.merged_tokens // waiting[0][..., 0].numel()))
                together = waiting[0] if copies == 1 else torch.cat(waiting[:copies])
                output = self.runner.block(block, together, root.contexts(copies))
                yield from (_Node(root, hidden) for hidden in output.chunk(copies))
                del waiting[:copies]


class _Root:
    """One level of the embedding: the first block's input, and what blocks are called with beside hidden states."""

    def __init__(self, tree: Tree, choice: Choice, ids: Tensor) -> None:
        self._tree, self._choice, self._ids = tree, choice, ids
        self.hidden, contexts = self._begin(1)
        self._contexts = {1: contexts}

    def contexts(self, copies: int) -> Contexts:
        """For batches that hold the ids `copies` times."""
        if copies not in self._contexts:
            self._contexts[copies] = self._begin(copies)[1]
        return self._contexts[copies]

    def _begin(self, copies: int) -> tuple[Tensor, Contexts]:
        self._tree.assembly.use(EMBEDDING, self._choice)
        return self._tree.runner.begin(self._ids.repeat(copies, 1))


@dataclass(frozen=True)
class _Node:
    """Hidden states (batch, length, width) between two blocks, and where they come from."""

    root: _Root
    hidden: Tensor


def _power_of_two(limit: int) -> int:
    """The largest power of two up to `limit`, at least 1: each size of a merged pass needs contexts of its own."""
    return 1 << max(0, limit.bit_length() - 1)


def _sort_key(edge: tuple[int, Choice]) -> tuple[tuple[str, ...], int]:
    """Edges with equal choices side by side, so that a choice is assembled once."""
    node, choice = edge
    return tuple(level or "" for level in choice), node
