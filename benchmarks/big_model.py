"""What a model of eight billion weights takes on one GPU: random weights in the shape of Llama-3-8B, so no download.

Asserted first: sharing prefixes changes no score. Then measured, once each, with the memory of the device at its peak:

* the build: GPTQ at 2, 3, 4, 5 and 6 bits in groups of 128, as the paper makes them and with all parts of the default,
  of the first blocks only (each costs the same);
* the polish of blocks at 3 bits, as many of them as were built;
* the search: one generation of the paper's schedule for bits on levels that were rounded to nearest, whose numbers cost
  what any others cost, beside the plain forward passes of as many tokens in the same model.

    python benchmarks/big_model.py                      # a GPU of 80 GB, 12 GB of disk, a few minutes
    python benchmarks/big_model.py --width 128 --blocks 4 --vocabulary 512 --device cpu ...
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bench_search import generation
from run_settings import machine
from transformers import LlamaConfig, LlamaForCausalLM

from evopress.core.files import size
from evopress.core.profile import Profile
from evopress.database.build import build_database
from evopress.database.methods import Quantization
from evopress.fitness.bank import Bank
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import AT_ONCE, HEAD_BYTES, Evaluator
from evopress.levels import Grid
from evopress.models import Runner, describe
from evopress.models.assemble import Assembly, weight_slots
from evopress.models.memory import available_memory
from evopress.models.weights import weight
from evopress.polish.blocks import Forms, Rates, polish_block
from evopress.polish.learnable import learnable
from evopress.polish.text import Text
from evopress.search.presets import BITS
from evopress.settings.sections import PolishSection
from evopress.steps.opened import BATCH_TOKENS
from evopress.text.tokens import Tokens

GRIDS = {str(bits): Grid(bits, 128) for bits in (2, 3, 4, 5, 6)}
FEW = ("2", "3", "4")
"""The levels of the search: those around the target."""
SHARED_TOKENS, SHARED_PROFILES = 512, 4
"""What sharing prefixes is checked on."""


class Device:
    """Seconds and bytes of one device."""

    def __init__(self, name: str) -> None:
        self.name, self.cuda = name, name.startswith("cuda")

    def now(self) -> float:
        """Seconds, when all that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize(self.name)
        return time.perf_counter()

    def peak(self) -> str:
        """The most memory since the last call."""
        if not self.cuda:
            return "-"
        most = torch.cuda.max_memory_allocated(self.name)
        torch.cuda.reset_peak_memory_stats(self.name)
        return size(most)


def make_model(options: argparse.Namespace, blocks: int) -> Any:
    """Llama-3-8B's proportions at `--width`, in bf16, with weights that nobody trained."""
    width = options.width
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 7 // 2,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 128),
        num_key_value_heads=max(1, width // 512),
        vocab_size=options.vocabulary,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


def text(tokens: int, length: int, vocabulary: int) -> Tokens:
    """Random ids in sequences of one length."""
    generator = torch.Generator().manual_seed(0)
    shape = (max(2, -(-tokens // length)), length)
    return Tokens.of(torch.randint(vocabulary, shape, generator=generator).unbind(), "random ids")


def measure_builds(options: argparse.Namespace, device: Device, folder: Path) -> list[str]:
    """Seconds a block, and what all blocks of the model would take, for the paper's levels and for the default ones."""
    better = {"act_order": True, "search": True, "rounds": 1, "mismatch": 0.25}
    return [
        line
        for name, parts in (("the paper's", {}), ("default", better))
        for line in measure_build(options, device, folder / name, name, parts)
    ]


def measure_build(
    options: argparse.Namespace, device: Device, folder: Path, name: str, parts: dict[str, Any]
) -> list[str]:
    """The build with some parts of `Quantization`."""
    runner = Runner(model := make_model(options, options.build_blocks), describe(model))
    sequences = text(options.calibration_tokens, options.sequence_length, options.vocabulary).sequences
    method = Quantization(grids=GRIDS, propagate="3", **parts)
    started: list[float] = []
    build_database(
        folder,
        runner,
        method,
        [ids.to(options.device) for ids in sequences],
        {},
        batch_tokens=BATCH_TOKENS[options.device],
        progress=lambda done, total, what: started.append(device.now()),
    )
    seconds = statistics.median(after - before for before, after in pairwise(started))
    stored = sum(file.stat().st_size for file in folder.iterdir()) / options.build_blocks
    whole = seconds * options.blocks
    return [
        f"| {name} levels {', '.join(GRIDS)}, {options.calibration_tokens:,} tokens: a block | {seconds:.1f} s |",
        f"| {options.blocks} of them | {whole / 60:.1f} min, {size(round(stored * options.blocks))} on disk |",
        f"| memory of the device | {device.peak()} |",
    ]


def measure_polish(options: argparse.Namespace, device: Device, folder: Path) -> list[str]:
    """Seconds a block of learning uniform 3 bits that were rounded to nearest, and the memory that it takes."""
    runner = Runner(model := make_model(options, options.build_blocks), describe(model))
    database = build_database(folder, runner, Quantization(name="rtn", grids={"3": GRIDS["3"]}), [], {})
    sequences = text(options.polish_tokens, options.sequence_length, options.vocabulary).sequences
    learned = Text.of(runner, sequences, options.sequence_length)
    rates = Rates(epochs=1, codes=default("polish_code_rate"), floats=default("polish_scale_rate"))
    inputs, seconds = learned.begin(), []
    device.peak()
    for block in range(options.build_blocks):
        before = device.now()
        targets = learned.through(inputs, lambda state, contexts, at=block: runner.block(at, state, contexts))
        linears = {own.view.parameter: own for own in runner.map.of_block(block)}
        levels = {name: database.load(own.name, "3").to(runner.device) for name, own in linears.items()}
        forms = Forms({name: learnable(level, weight(model, linears[name].view)) for name, level in levels.items()})
        outcome = polish_block(learned, block, forms, inputs, targets, rates)
        assert outcome.after <= outcome.before, "a block became worse"
        seconds.append(device.now() - before)
    whole = statistics.median(seconds) * options.blocks
    return [
        f"| polish of 3 bits, {learned.tokens:,} tokens: a block | {statistics.median(seconds):.1f} s |",
        f"| {options.blocks} of them | {whole / 60:.1f} min |",
        f"| memory of the device | {device.peak()} |",
    ]


def default(name: str) -> Any:
    """What a setting of the polish is by itself."""
    return PolishSection.model_fields[name].default


def measure_search(options: argparse.Namespace, device: Device, folder: Path) -> list[str]:
    """Time of one generation, and of as many tokens through the plain model."""
    runner = Runner(model := make_model(options, options.blocks), describe(model))
    grids = {level: GRIDS[level] for level in FEW}
    before = device.now()
    database = build_database(folder, runner, Quantization(name="rtn", grids=grids), [], {})
    built = device.now() - before
    stages = tuple(options.tokens_per_stage)
    source = text(stages[-1], options.sequence_length, options.vocabulary)
    memory = available_memory(options.device) // 2
    bank = Bank(database, torch.device(options.device), memory)
    names = [linear.name for linear in runner.map.linears]
    parent, *children = offspring(names, BITS["paper"].offspring)
    with Assembly(weight_slots(model, runner.map, bank.load)) as assembly:
        evaluator = Evaluator(
            runner,
            assembly,
            source,
            (KL(),),
            batch_tokens=BATCH_TOKENS[options.device],
            head_bytes=HEAD_BYTES[options.device],
            at_once=AT_ONCE,
        )
        check_sharing(evaluator, [parent, *children[: SHARED_PROFILES - 1]])
        evaluator.merge = options.merge
        evaluator(children, stages[0])  # every level is resident after this
        evaluator.teacher.compute(range(len(source.sequences)))
        evaluator.work.passes = evaluator.work.passes_without_sharing = evaluator.work.tokens = 0
        device.peak()
        seconds = generation(evaluator, [parent, *children], BITS["paper"].survivors, stages)
        work, peak = evaluator.work, device.peak()
    ours, plain = work.tokens / sum(seconds), plain_speed(options, device, model)
    stages_took = " + ".join(f"{stage:.1f}" for stage in seconds)
    shared = work.passes / work.passes_without_sharing
    return [
        f"| levels {', '.join(FEW)} rounded to nearest, packed and written | {built:.0f} s |",
        f"| one generation, {work.tokens:,} tokens of candidates | {sum(seconds):.1f} s ({stages_took}) |",
        f"| tokens of candidates a second | {ours:,.0f} |",
        f"| tokens a second of the plain forward pass, logits included | {plain:,.0f} |",
        f"| ratio | {ours / plain:.2f} |",
        f"| block passes with sharing / without | {shared:.2f} |",
        f"| levels in memory | {size(bank.resident_bytes)} of {size(memory)} |",
        f"| memory of the device | {peak} |",
    ]


def check_sharing(evaluator: Evaluator, profiles: list[Profile]) -> None:
    """The same bits with shared prefixes and without."""
    shared = evaluator(profiles, SHARED_TOKENS)
    evaluator.calls, evaluator.share = 0, False
    assert shared == evaluator(profiles, SHARED_TOKENS), "sharing changed a score"
    evaluator.share = True


def offspring(names: list[str], count: int) -> list[Profile]:
    """A mixed parent and children that differ from it by one to three switches, as Algorithm 1 makes them."""
    rng = random.Random(0)
    parent = {name: rng.choice(FEW) for name in names}
    children = []
    for _ in range(count):
        child = dict(parent)
        for _ in range(min(rng.randint(1, 3), rng.randint(1, 3))):
            one, other = rng.sample(names, 2)
            child[one], child[other] = rng.sample(FEW, 2)
        children.append(Profile.of(child))
    return [Profile.of(parent), *children]


@torch.inference_mode()
def plain_speed(options: argparse.Namespace, device: Device, model: Any) -> float:
    """Tokens a second of the model's own forward pass in batches of the same size, the best of three."""
    rows = max(1, BATCH_TOKENS[options.device] // options.sequence_length // 4)  # whole logits are large
    ids = torch.randint(options.vocabulary, (rows, options.sequence_length), device=options.device)
    seconds = []
    for _ in range(3):
        before = device.now()
        model(input_ids=ids, use_cache=False)
        seconds.append(device.now() - before)
    return ids.numel() / min(seconds)


def main() -> None:
    """Check, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--build-blocks", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--calibration-tokens", type=int, default=131_072)
    parser.add_argument("--polish-tokens", type=int, default=default("polish_tokens"))
    parser.add_argument("--tokens-per-stage", type=int, nargs=3, default=list(BITS["paper"].tokens))
    parser.add_argument(
        "--merge",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="candidates of equal levels go through a block together, as in a run on a GPU",
    )
    parser.add_argument("--only", choices=["build", "polish", "search"])
    parser.add_argument("--folder", type=Path, help="where the databases go; default: a temporary directory")
    options = parser.parse_args()
    device = Device(options.device)
    about = machine(options.device)
    print(f"machine: {about['device']}, torch {about['torch']}, bf16\n", flush=True)
    print("| measured | value |\n|---|---:|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, measure in {"build": measure_builds, "polish": measure_polish, "search": measure_search}.items():
            if options.only in (None, name):
                print("\n".join(measure(options, device, Path(folder) / name)), flush=True)


if __name__ == "__main__":
    main()
