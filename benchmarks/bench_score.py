"""What scoring costs beside the blocks: the head in chunks of several sizes, a divergence inside and outside a cache.

Random numbers in the shape of SmolLM2's head (576 x 49,152, bf16). Asserted first: the divergence is the same bits in
row groups of any size. Times are those of the processor, the best of some repeats, for 1024 tokens.

    OMP_NUM_THREADS=1 python benchmarks/bench_score.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from evopress.fitness.divergence import KL

TOKENS, WIDTH, VOCABULARY = 1024, 576, 49_152
CHUNKS = (64, 128, 256, 512, 1024)
ROWS = (1, 4, 16, 64, 256)
REPEATS = 3


def best(work: Callable[[], object]) -> float:
    """Milliseconds of the processor."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return 1000 * min(seconds)


def head(inputs: Tensor, weight: Tensor, chunk: int) -> None:
    """The product with the head, a chunk of tokens at a time."""
    for part in inputs.split(chunk):
        torch.nn.functional.linear(part, weight)


def divergence(output: Tensor, shared: tuple[Tensor, Tensor], rows: int) -> Tensor:
    """KL of each token, so many rows at a time, from outputs in bf16."""
    parts = zip(*(tensor.split(rows) for tensor in shared), output.split(rows), strict=True)
    return torch.cat([KL().losses((logs, likely), own.float()) for logs, likely, own in parts])


def main() -> None:
    """Check, time, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    vocabulary = parser.parse_args().vocabulary
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, WIDTH, generator=generator).bfloat16() * 0.05
    inputs = torch.randn(TOKENS, WIDTH, generator=generator).bfloat16()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| tokens in a chunk of the head | ms for 1024 tokens |\n|---:|---:|")
    for chunk in CHUNKS:
        print(f"| {chunk} | {best(lambda chunk=chunk: head(inputs, weight, chunk)):.0f} |")
    output = torch.nn.functional.linear(inputs[:256], weight)
    shared = KL().prepare(torch.randn(256, vocabulary, generator=generator), torch.zeros(256))
    whole = divergence(output, shared, 256)
    print("\n| rows of the divergence at a time | ms for 1024 tokens |\n|---:|---:|")
    for rows in ROWS:
        assert torch.equal(divergence(output, shared, rows), whole), "row groups changed a divergence"
        print(f"| {rows} | {4 * best(lambda rows=rows: divergence(output, shared, rows)):.0f} |")


if __name__ == "__main__":
    main()
