"""Stacked SparseGPT against the textbook loop per layer and per level, on one block shaped like SmolLM2-135M's.

Weights are random, inputs correlated, levels -4 to +4 steps of 5 % around 60 % sparsity. The loop is the usual one:
weights as (rows, columns), a mask for each block of 128 columns from the sorted scores, rank-1 updates to the end of
the block and a loss after each column, a matrix product beyond. It factors each layer's Hessian once, not once per
level, and returns dense weights and losses; the stacked side also packs its weights. Part of what the loop spends is
its sort, so it is timed a second time with the k-th value in place of the sort. All must agree, up to rare ties of
masks, before anything is timed.

    python benchmarks/bench_sparse.py --threads 2
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from bench_sweep import BLOCK, DAMPING, InputGroup, best_seconds, make_block
from torch import Tensor

from evopress.levels import Compressed, Inputs, Sparse, prune_sparsegpt, sparsity_levels
from evopress.levels.levels import spread

SPARSITY, STEP, REACH = 0.6, 0.05, 4
MAX_TIES = 2e-3  # share of masks that may differ: a tie that falls the other way changes the columns after it

Threshold = Callable[[Tensor, int], Tensor]
"""Scores and k -> the k-th smallest score."""


def by_sort(scores: Tensor, k: int) -> Tensor:
    return scores.flatten().sort().values[k - 1]


def by_selection(scores: Tensor, k: int) -> Tensor:
    return scores.flatten().kthvalue(k).values


def zeros_of(group: InputGroup) -> list[list[int]]:
    """Numbers of zeros [weight][level], the same shares of each weight."""
    return [
        [zeros for _, zeros in sparsity_levels([n], SPARSITY, step=round(STEP * n), reach=REACH)[0]]
        for n in (weight.numel() for weight in group.weights)
    ]


def textbook(group: InputGroup, threshold: Threshold) -> list[list[tuple[Tensor, float]]]:
    """SparseGPT's weights and losses [weight][level], one layer and one level at a time."""
    answer = []
    for weight, zeros in zip(group.weights, zeros_of(group), strict=True):
        hessian = group.hessian.clone()
        hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        factor = torch.linalg.cholesky(inverse, upper=True)
        answer.append([textbook_layer(weight.clone(), factor, count, threshold) for count in zeros])
    return answer


def textbook_layer(weight: Tensor, factor: Tensor, zeros: int, threshold: Threshold) -> tuple[Tensor, float]:
    """SparseGPT of one layer at one level; overwrites and returns `weight`, and its squared output error."""
    columns = weight.shape[1]
    starts = range(0, columns, BLOCK)
    quotas = spread(zeros, [min(BLOCK, columns - start) for start in starts])
    loss = torch.zeros(len(weight))
    for start, quota in zip(starts, quotas, strict=True):
        stop = min(start + BLOCK, columns)
        part, inner = weight[:, start:stop].clone(), factor[start:stop, start:stop]
        scores = part**2 / inner.diagonal() ** 2
        dropped = scores <= threshold(scores, quota)
        pruned, errors, losses = torch.zeros_like(part), torch.zeros_like(part), torch.zeros_like(part)
        for i in range(stop - start):
            column = part[:, i]
            kept = column.clone()
            kept[dropped[:, i]] = 0
            pruned[:, i] = kept
            losses[:, i] = (column - kept) ** 2 / inner[i, i] ** 2
            error = (column - kept) / inner[i, i]
            part[:, i:] -= error.unsqueeze(1) @ inner[i, i:].unsqueeze(0)
            errors[:, i] = error
        weight[:, start:stop] = pruned
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
        loss += losses.sum(1)
    return weight, float(loss.sum())


def stacked(group: InputGroup) -> list[list[Compressed[Sparse]]]:
    """The library's answer for a group; kept weights are stored as the loop leaves them, in fp32."""
    return prune_sparsegpt(
        group.weights, Inputs(group.hessian), zeros_of(group), damping=DAMPING, block=BLOCK, dtype=torch.float32
    )


def share_of_ties(group: InputGroup, threshold: Threshold) -> float:
    """Share of the masks in which the two disagree."""
    pairs = [
        (new.tensor.dequantize() == 0, old == 0)
        for news, olds in zip(stacked(group), textbook(group, threshold), strict=True)
        for new, (old, _) in zip(news, olds, strict=True)
    ]
    return sum(int((new != old).sum()) for new, old in pairs) / sum(old.numel() for _, old in pairs)


def main() -> None:
    """Check, time, print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, the best counts (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    levels = 2 * REACH + 1
    print(f"torch {torch.__version__}, {arguments.threads} threads, {levels} levels, best of {arguments.repeats}\n")
    print("| input group | masks that differ | loop, s | loop without sort, s | stacked, s | ratio | without sort |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    total = [0.0, 0.0, 0.0]
    for group in make_block(arguments.seed):
        ties = max(share_of_ties(group, threshold) for threshold in (by_sort, by_selection))
        assert ties <= MAX_TIES, f"{group.name}: {ties:.2%} of the masks differ"
        works = [partial(textbook, group, by_sort), partial(textbook, group, by_selection), partial(stacked, group)]
        seconds = best_seconds(works, arguments.repeats)
        total = [a + b for a, b in zip(total, seconds, strict=True)]
        print(row(f"{group.name} | {ties:.1e}", seconds))
    print(row("whole block |", total))


def row(name: str, seconds: list[float]) -> str:
    """One row of the table."""
    loop, lean, stack = seconds
    return f"| {name} | {loop:.2f} | {lean:.2f} | {stack:.2f} | {loop / stack:.1f} | {lean / stack:.1f} |"


if __name__ == "__main__":
    main()
