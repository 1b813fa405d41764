"""Stacked GPTQ sweep against the textbook loop per layer and per level, on one block shaped like SmolLM2-135M's.

Weights are random, inputs correlated, levels 2, 3, 4, 5, 6 and 8 bits with group size 64. The loop is the usual one:
weights as (rows, columns), rank-1 updates inside blocks of 128 columns, a matrix product beyond. It factors each
layer's Hessian once, not once per level. Both give what a database holds: packed codes, scales, zeros, and the relative
error of the layer's output, which the loop gets as it is defined and the stacked sweep from the columns' errors. Both
must agree, up to rare ties of rounding, before anything is timed.

    python benchmarks/bench_sweep.py --threads 2
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from evopress.levels import Compressed, Grid, Hessian, Inputs, Quantized, quantize_gptq
from evopress.levels.hessian import output_energy, relative_error

WIDTH, HIDDEN, KEYS = 576, 1536, 192
BLOCK, GROUP, DAMPING = 128, 64, 0.01
GRIDS = [Grid(bits, GROUP) for bits in (2, 3, 4, 5, 6, 8)]
MAX_TIES = 2e-3  # share of codes that may differ: a tie that falls the other way changes the columns after it
MAX_APART = 1e-2  # relative difference of two errors, of the same cause


@dataclass(frozen=True)
class InputGroup:
    """Layers that read one input."""

    name: str
    weights: list[Tensor]
    hessian: Tensor


def make_block(seed: int) -> list[InputGroup]:
    """The four input groups of a transformer block."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q, k, v": (WIDTH, [WIDTH, KEYS, KEYS]), "o": (WIDTH, [WIDTH])}
    shapes |= {"gate, up": (WIDTH, [HIDDEN, HIDDEN]), "down": (HIDDEN, [WIDTH])}
    groups = []
    for name, (columns, rows) in shapes.items():
        mix = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
        hessian = Hessian(columns)
        hessian.add(torch.randn(4 * columns, columns, generator=generator) @ mix)
        weights = [torch.randn(count, columns, generator=generator) / columns**0.5 for count in rows]
        groups.append(InputGroup(name, weights, hessian.matrix))
    return groups


def textbook(group: InputGroup) -> list[list[Compressed[Quantized]]]:
    """GPTQ [weight][grid], one layer and one level at a time."""
    answer = []
    for weight in group.weights:
        hessian = group.hessian.clone()
        hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        factor = torch.linalg.cholesky(inverse, upper=True)
        energy = output_energy(weight, group.hessian)
        answer.append([])
        for grid in GRIDS:
            tensor = textbook_layer(weight.clone(), factor, grid)
            error = output_energy(weight - tensor.dequantize(), group.hessian)
            answer[-1].append(Compressed(tensor, relative_error(error, energy), DAMPING))
    return answer


def textbook_layer(weight: Tensor, factor: Tensor, grid: Grid) -> Quantized:
    """GPTQ of one layer at one level; overwrites `weight`."""
    rows, columns = weight.shape
    codes = torch.empty_like(weight)
    scales, zeros = weight.new_empty(2, rows, columns // GROUP)
    top = 2**grid.bits - 1
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        part, inner = weight[:, start:stop], factor[start:stop, start:stop]
        errors = torch.zeros_like(part)
        for i in range(stop - start):
            if i % GROUP == 0:
                low = part[:, i : i + GROUP].amin(1).clamp(max=0)
                high = part[:, i : i + GROUP].amax(1).clamp(min=0)
                scale = ((high - low) / top).half().float()
                zero = torch.round(-low / scale).clamp(0, top)
                at = (start + i) // GROUP
                scales[:, at], zeros[:, at] = scale, zero
            column = part[:, i]
            code = torch.clamp(torch.round(column / scale) + zero, 0, top)
            error = (column - (code - zero) * scale) / inner[i, i]
            part[:, i:] -= error.unsqueeze(1) @ inner[i, i:].unsqueeze(0)
            errors[:, i] = error
            codes[:, start + i] = code
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return Quantized.from_codes(codes.to(torch.uint8), scales, zeros.to(torch.uint8), grid)


def stacked(group: InputGroup) -> list[list[Compressed[Quantized]]]:
    """The library's answer for a group."""
    return quantize_gptq(group.weights, Inputs(group.hessian), GRIDS, damping=DAMPING, block=BLOCK)


def share_of_ties(group: InputGroup) -> float:
    """Share of codes in which the two disagree; AssertionError where a layer's error is another one."""
    differ = total = 0
    for new, old in zip(chain(*stacked(group)), chain(*textbook(group)), strict=True):
        assert math.isclose(new.error, old.error, rel_tol=MAX_APART), f"{group.name}: {new.error}, {old.error}"
        codes = new.tensor.unpacked_codes()
        differ, total = differ + int((codes != old.tensor.unpacked_codes()).sum()), total + codes.numel()
    return differ / total


def best_seconds(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The best time of each, taken in turns: other programs only ever add time, and then to both alike."""
    best = [math.inf] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            begin = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - begin)
    return best


def main() -> None:
    """Check, time, print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, the best counts (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {len(GRIDS)} levels, best of {arguments.repeats}\n")
    print("| input group | codes that differ | loop, s | stacked, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    loop_total = stacked_total = 0.0
    for group in make_block(arguments.seed):
        ties = share_of_ties(group)
        assert ties <= MAX_TIES, f"{group.name}: {ties:.2%} of the codes differ"
        loop, stack = best_seconds([partial(textbook, group), partial(stacked, group)], arguments.repeats)
        loop_total, stacked_total = loop_total + loop, stacked_total + stack
        print(f"| {group.name} | {ties:.1e} | {loop:.2f} | {stack:.2f} | {loop / stack:.1f} |")
    print(f"| whole block | | {loop_total:.2f} | {stacked_total:.2f} | {loop_total / stacked_total:.1f} |")


if __name__ == "__main__":
    main()
