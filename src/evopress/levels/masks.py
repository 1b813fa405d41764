"""Choosing which weights stay, exactly as many as asked, ties included: of equal scores the first go first.

Masks are uint8, 1 for a weight that stays: what packing takes, and several times faster to multiply with than bool.
A mask of k zeros costs about four passes over the scores, a pattern N:M M - 1 comparisons a weight.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor


def keep_largest(scores: Tensor, zeros: int) -> Tensor:
    """The mask, in the shape of `scores`, that drops exactly the `zeros` lowest; ties go in the order of memory.

    Scores are floats of at least 32 bits, none of them negative.

    >>> keep_largest(torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0]), zeros=2).tolist()
    [1, 0, 1, 0, 1]
    """
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.uint8)
    flat = scores.reshape(-1)
    threshold = _kth_smallest(flat, zeros)
    kept = (flat > threshold).view(torch.uint8)
    missing = flat.numel() - zeros - int(kept.count_nonzero())
    if missing:
        tied = (flat == threshold).nonzero().squeeze(1)
        kept[tied[len(tied) - missing :]] = 1
    return kept.view(scores.shape)


def _kth_smallest(scores: Tensor, k: int) -> Tensor:
    """The k-th smallest of `scores` (n,), counted from 1, none negative; several times faster than `kthvalue` alone.

    Floats that are not negative sort as their bits do. So the leading 16 bits are counted, and only the scores that
    share those of the k-th, one in a hundred or so, are looked at again.
    """
    words = scores.element_size() // 2
    leading = scores.view(torch.int16)[words - 1 :: words]
    reached = leading.bincount().cumsum(0)
    place = int(torch.searchsorted(reached, k))
    before = int(reached[place - 1]) if place else 0
    return scores[leading == place].kthvalue(k - before).values


def ranks(scores: Sequence[Tensor]) -> Tensor:
    """How many of the others come before each of `scores` (M tensors of one shape): (M, *shape), int16.

    A score comes before lower ones, and before equal ones that stand earlier. So ``ranks(scores) < n`` keeps n of M.
    """
    places = torch.zeros(len(scores), *scores[0].shape, dtype=torch.int16, device=scores[0].device)
    for i, j in combinations(range(len(scores)), 2):
        behind = (scores[i] <= scores[j]).view(torch.uint8)
        places[i] += behind
        places[j] -= behind
    later = torch.arange(len(scores), dtype=torch.int16, device=places.device)
    return places.add_(later.view(-1, *[1] * scores[0].ndim))
