"""One generation of the paper's depth schedule against the same candidates as full forward passes.

Asserted first: scores with and without sharing are the same bits. Then, in turns and in one run:

* ours: a generation as the search scores it: dropped sub-layers are not computed, equal prefixes are computed once, and
  the divergence is part of it;
* theirs: for each candidate of each stage the stock model's own forward pass over the same tokens, nothing dropped,
  once alone and once with what a score is made of: the teacher's pass and the candidate's divergence from it.

The ratio to the passes alone is to be at most 0.6. Times are those of the processor, so that other work on the machine
does not count. `--share 4` takes a fourth of the paper's tokens (2048 and 32768); both sides scale alike.

    python benchmarks/bench_depth.py runs/bench-depth --share 4
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from run_settings import add_settings

from evopress.core.profile import Profile
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import Evaluator
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.search.moves.mutation import equal_switches
from evopress.search.presets import PRESETS
from evopress.search.starts.drawn import random_starts
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

PAPER = PRESETS["depth"]["paper"]


def offspring(workspace: Workspace, count: int) -> list[Profile]:
    """A random parent and so many different offspring."""
    space, rng = workspace.space, random.Random(0)
    parent = space.encode(random_starts(space, 1, rng)[0])
    children: set[tuple[int, ...]] = set()
    while len(children) < count:
        child = equal_switches(space, parent, rng)
        if child is not None:
            children.add(child)
    return [space.decode(child) for child in (parent, *sorted(children))]


def generation(evaluator: Evaluator, profiles: list[Profile], tokens: tuple[int, ...]) -> list[int]:
    """Score and select as a search does; returns how many candidates each stage had."""
    parent, candidates, counts = profiles[0], profiles[1:], []
    for number, survivors in enumerate(PAPER.survivors):
        if number == len(PAPER.survivors) - 1:
            candidates = [parent, *candidates]
        counts.append(len(candidates))
        scores = evaluator(candidates, tokens[number])
        candidates = [candidates[i] for i in sorted(range(len(scores)), key=scores.__getitem__)[:survivors]]
    return counts


def full_passes(evaluator: Evaluator, count: int, tokens: int, *, scored: bool) -> None:
    """The stock model's logits of a minibatch, for each of `count` candidates, in the evaluator's batches.

    `scored`: and their divergence, sequence by sequence, from one more pass, the teacher's.
    """
    model, text, measure = evaluator.runner.model, evaluator.text, KL()
    length = len(text.sequences[0])
    batch = evaluator.batch_tokens // length
    assert tokens % length == 0, f"{tokens} tokens are no whole sequences of {length}"
    ids = torch.stack(list(text.sequences[: tokens // length]))
    for part in ids.split(batch):
        teacher = []
        if scored:
            answers = model(input_ids=part, use_cache=False).logits
            teacher = [measure.prepare(own.float(), row) for own, row in zip(answers, part, strict=True)]
        for _ in range(count):
            logits = model(input_ids=part, use_cache=False).logits
            for row, shared in enumerate(teacher):
                measure.losses(shared, logits[row].float())


def main() -> None:
    """Assert, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--fraction", default="0.25")
    parser.add_argument("--offspring", type=int, default=PAPER.offspring)
    parser.add_argument("--share", type=int, default=1)
    options = parser.parse_args()
    tokens = tuple(own // options.share for own in PAPER.tokens)
    config = resolve(options.model, fraction=options.fraction, **{"search_tokens": tokens[-1]} | dict(options.set))
    workspace = Workspace(start_run(options.folder, config), Observer())
    profiles, text = offspring(workspace, options.offspring), workspace.splits.search
    with workspace.evaluator(text, (KL(),), len(profiles)) as evaluator, torch.inference_mode():
        evaluator.teacher.compute(range(len(text.sequences)))
        shared = evaluator(profiles, 256)
        evaluator.calls, evaluator.share = 0, False
        assert shared == evaluator(profiles, 256), "sharing changed a score"
        evaluator.share = True
        evaluator.work.passes = evaluator.work.passes_without_sharing = 0
        started = time.process_time()
        counts = generation(evaluator, profiles, tokens)
        ours, work = time.process_time() - started, evaluator.work
        evaluator.assembly.restore()
        theirs = {}
        for scored in (False, True):
            started = time.process_time()
            for count, own in zip(counts, tokens, strict=True):
                full_passes(evaluator, count, own, scored=scored)
            theirs[scored] = time.process_time() - started
    print(f"machine: {torch.get_num_threads()} threads, {workspace.loaded.model.dtype}, torch {torch.__version__}")
    print(f"fraction {options.fraction}; candidates {counts} on {tokens} tokens\n")
    print("| measured | value | goal |")
    print("|---|---:|---:|")
    print(f"| generation / full forward passes of its candidates | {ours / theirs[False]:.3f} | 0.6 |")
    print(f"| generation / full forward passes that are scored | {ours / theirs[True]:.3f} | |")
    print(f"| the generation | {ours:.0f} CPU s | |")
    print(f"| full forward passes | {theirs[False]:.0f} CPU s | |")
    print(f"| full forward passes that are scored | {theirs[True]:.0f} CPU s | |")
    print(f"| block passes with sharing / without | {work.passes / work.passes_without_sharing:.3f} | |")


if __name__ == "__main__":
    main()
