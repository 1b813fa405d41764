"""What guides a choice of experts' bits, and of experts to drop: layer errors, squared gradients, or real KL.

A small mixture is trained on the demo text (4 blocks of width 128, 8 experts of 128, two for each token, with the usual
loss that spreads tokens; byte-level tokens, since with a real vocabulary the head would be most of the work). Then, for
three seeds of calibration and search text, profiles of the same bytes are found by each guide and scored on the
held-out text.

    OMP_NUM_THREADS=1 python benchmarks/mixture.py runs/mixture          # about a quarter of an hour of one core
    python benchmarks/mixture.py runs/mixture --only-table
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import transformers

from evopress import pipeline
from evopress.core.profile import KEEP, Profile
from evopress.families import DropExperts
from evopress.fitness.divergence import KL
from evopress.fitness.sensitivity import Sensitivity, measure_sensitivity
from evopress.run.observer import Observer
from evopress.search import knapsack
from evopress.search.baselines.scored import least
from evopress.search.starts.drawn import random_starts
from evopress.steps.scoring import HeldOut, score
from evopress.steps.workspace import Workspace
from evopress.testing import merging_tokenizer
from evopress.text.loading import load_splits
from evopress.text.tokens import Amounts

ROWS = Path(__file__).parent / "results" / "mixture.jsonl"
LENGTH, BATCH, STEPS = 128, 16, 500
SEEDS = (0, 1, 2)
FRACTION = 0.25
TEXT = {"data": "demo", "sequence_length": LENGTH, "search_tokens": 32768, "heldout_tokens": 32768, "bos": "no"}
SEARCH = {"generations": 20, "offspring": 12, "survivors": (4, 1), "tokens_per_stage": (512, 2048), "polish": "none"}
MEASURED = 4096  # tokens on which squared gradients are measured


def main() -> None:
    """Train where there is no model yet, find and score the missing rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only-table", action="store_true")
    options = parser.parse_args()
    if not options.only_table:
        if not (options.directory / "model").exists():
            train(options.directory / "model")
        known = {(row["what"], row["seed"]) for row in read_rows()}
        for seed in SEEDS:
            for what, run in JOBS.items():
                if (what, seed) not in known:
                    rows = [{"what": what, "seed": seed, **row} for row in run(options.directory, seed)]
                    with ROWS.open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(tables())


def train(directory: Path) -> None:
    """A mixture of Qwen3's kind on text that is neither searched nor held out."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "qwen3_moe", vocab_size=320, hidden_size=128, intermediate_size=256, moe_intermediate_size=128, head_dim=32,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, max_position_embeddings=256, output_router_logits=True, router_aux_loss_coef=0.02,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    auto: Any = transformers.AutoModelForCausalLM
    model, tokenizer = auto.from_config(config, dtype=torch.float32).train(), merging_tokenizer()
    amounts = Amounts(calibration=STEPS * BATCH * LENGTH, search=0, heldout=32768)
    text = load_splits("demo", tokenizer, amounts, sequence_length=LENGTH, seed=99, bos=None).calibration.sequences
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
    started = time.process_time()
    for step in range(STEPS):
        ids = torch.stack([one for one in text[step * BATCH : (step + 1) * BATCH] if len(one) == LENGTH])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.process_time() - started:.0f} CPU s", flush=True)
    model.config.output_router_logits = False
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def bits(target: str, directory: Path, seed: int) -> Iterator[dict[str, Any]]:
    """A level for each expert's matrix, `target` bits on average; the search starts from layer errors, or as `auto`."""
    own = {"bits": target, "levels": (2, 3, 4), "group_size": 32, "calibration_tokens": 16384}
    common = TEXT | SEARCH | {"seed": seed, "text_seed": seed, "dtype": "float32"}
    common |= {"database": str(directory / f"database-{seed}")}
    name = f"bits-{target}-{seed}"
    run = pipeline.quantize(str(directory / "model"), out=directory / name, **common | own | {"start": "knapsack"})
    auto = pipeline.quantize(str(directory / "model"), out=directory / f"{name}-auto", **common | own)
    workspace = Workspace(run.directory, Observer())
    space, start = workspace.space, workspace.space.uniforms()[-1]
    squares = measured(workspace, start, seed, "weights").curvature
    yield from scored(
        workspace,
        {
            "uniform": space.uniform(),
            "layer errors": knapsack(space, workspace.layer_errors),
            "squared gradients": knapsack(space, squares),
            "real KL (search)": run.profile,
            "real KL (search from squared gradients)": auto.profile,
        },
    )


def drop(directory: Path, seed: int) -> Iterator[dict[str, Any]]:
    """FRACTION of the experts of every layer are dropped."""
    own = {"fraction": FRACTION, "granularity": "expert"}
    common = TEXT | SEARCH | {"seed": seed, "text_seed": seed, "dtype": "float32"}
    run = pipeline.drop(str(directory / "model"), out=directory / f"drop-{seed}", **common | own)
    workspace = Workspace(run.directory, Observer())
    family, space = workspace.family, workspace.space
    assert isinstance(family, DropExperts)
    found = measured(workspace, Profile.of(dict.fromkeys(space.names, KEEP)), seed, "blocks").curvature
    squares = {name: max(levels.values()) for name, levels in found.items()}
    yield from scored(
        workspace,
        {
            "random": random_starts(space, 1, random.Random(seed))[0],
            **family.starts,
            "squared gradients": least(space, squares),
            "real KL (search)": run.profile,
        },
    )


JOBS = {"3 bits": partial(bits, "3"), "2.5 bits": partial(bits, "2.5"), "drop": drop}


def measured(workspace: Workspace, parent: Profile, seed: int, by: Any) -> Sensitivity:
    """The expansion of the KL around a profile that is (nearly) the dense model."""
    levels = {name: [level.name for level in unit.levels] for unit in workspace.space.units for name in unit.named}
    with workspace.evaluator(workspace.splits.search, (KL(),), 1) as evaluator:
        return measure_sensitivity(evaluator, parent, levels, MEASURED, by=by, seed=seed)


def scored(workspace: Workspace, profiles: dict[str, Profile]) -> Iterator[dict[str, Any]]:
    """Held-out KL and perplexity of profiles, and of the dense model."""
    found = score(workspace, {"dense": None, **profiles}, HeldOut())
    for name, row in found.rows.items():
        yield {"guide": name, "kl": row["kl"], "perplexity": row["perplexity"], "bytes": row["bytes"]}


def read_rows() -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def tables() -> str:
    """Means over seeds."""
    lines, rows = [], read_rows()
    for what in dict.fromkeys(row["what"] for row in rows):
        lines += [f"{what}:", "", "| guide | KL | spread | perplexity | bytes |", "| --- | --: | --: | --: | --: |"]
        own = [row for row in rows if row["what"] == what]
        for guide in dict.fromkeys(row["guide"] for row in own):
            mine = [row for row in own if row["guide"] == guide]
            kls = [row["kl"] for row in mine]
            spread = f"{stdev(kls):.5f}" if len(kls) > 1 else ""
            size = "-".join(f"{n:,}" for n in dict.fromkeys(row["bytes"] for row in mine))
            lines.append(
                f"| {guide} | {mean(kls):.5f} | {spread} | {mean(row['perplexity'] for row in mine):.2f} | {size} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
