"""Three checks of what `evopress evaluate` says, on a finished run of a real model, beside code that is not evopress's.

1. Perplexity on a text: against ten lines over the stock model, for the dense model and for the export of the profile.
2. Confidence intervals: a long held-out text is scored once; on subsamples of its sequences, how often does the 95 %
   interval contain the value of the whole text?
3. A multiple-choice task made from the text (which sentence comes next?): the accuracy of `evaluate --tasks` against
   that of the harness's own command line on the exported checkpoint.

    evopress demo -o runs/demo
    python benchmarks/evaluation.py runs/demo runs/evaluation

The run is not changed; a copy of its settings and profile is made in the second directory, with what the checks make.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evopress import pipeline
from evopress.core.files import write_text
from evopress.fitness.resampling import intervals
from evopress.models.load import load_model
from evopress.run.directory import RunDirectory, read_run
from evopress.run.observer import Observer
from evopress.run.records import read_profile
from evopress.settings.config import to_toml
from evopress.steps.harness import TaskSettings
from evopress.steps.scoring import HeldOut, score
from evopress.steps.tasks import evaluate_tasks
from evopress.steps.workspace import Workspace
from evopress.text.sources import open_heldout

EXACT_TOKENS = 4096
COVER_TOKENS, SUBSAMPLE, SUBSAMPLES = 24_576, 16, 1000
TASK = """\
task: next_sentence
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def main() -> None:
    """Make the three checks and print them as tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=int, default=60, help="of the task")
    parser.add_argument("--data", default="demo", help="whose held-out part is the text")
    parser.add_argument("--window", type=int, default=256, help="tokens; of the second check half as many")
    parser.add_argument("--share", type=int, default=1, help="take a SHARE-th of all tokens and subsamples")
    parser.add_argument("--only", choices=CHECKS, help="one of the checks")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    text = list(open_heldout(given.data, 8 * given.window).heldout)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in [given.only] if given.only else CHECKS:
        started = time.monotonic()
        CHECKS[name](given, text)
        print(f"\n({name}: {time.monotonic() - started:.0f} s)", flush=True)


def opened(run: RunDirectory, out: Path, dtype: str) -> Workspace:
    """A copy of the run's configuration and profile, over the same database, in another dtype."""
    out.mkdir(parents=True, exist_ok=True)
    config = run.config.model_copy(
        update={
            "model": run.config.model.model_copy(update={"dtype": dtype}),
            "compression": run.config.compression.model_copy(update={"database": str(run.database.resolve())}),
        }
    )
    write_text(out / "config.toml", to_toml(config))
    shutil.copy(run.profile, out / "profile.json")
    return Workspace(read_run(out), Observer())


def perplexities(given: argparse.Namespace, text: list[str]) -> None:
    """Check 1, in fp32."""
    window, tokens = given.window, EXACT_TOKENS // given.share
    workspace = opened(read_run(given.run), given.out / "fp32", "float32")
    file = given.out / "text.txt"
    tokenizer = workspace.loaded.tokenizer
    ids = tokenizer("\n\n".join(text), add_special_tokens=False, verbose=False).input_ids[:tokens]
    file.write_text(tokenizer.decode(ids), encoding="utf-8")
    found = pipeline.evaluate(workspace, data=str(file), sequence_length=window)["profiles"]
    pipeline.export(workspace, given.out / "export-fp32")
    print(f"\n| perplexity, {tokens} tokens, fp32 | evopress evaluate | ten lines | apart |\n|---|---:|---:|---:|")
    begin = [] if workspace.bos is None else [workspace.bos]
    stock = load_model(workspace.config.model.source, dtype=torch.float32).model
    exported = AutoModelForCausalLM.from_pretrained(given.out / "export-fp32").eval()
    for name, model in {"dense": stock, "searched": exported}.items():
        own = AutoTokenizer.from_pretrained(given.out / "export-fp32")
        slow = ten_lines(model, own, file.read_text("utf-8"), window, begin)
        mine = found[name]["perplexity"]
        print(f"| {name} | {mine:.6f} | {slow:.6f} | {abs(mine / slow - 1):.1e} |")


def ten_lines(model: Any, tokenizer: Any, text: str, window: int, begin: list[int]) -> float:
    """exp of the mean loss of each next token in windows that do not overlap and `begin` with BOS, or nothing."""
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]
    losses, tokens = 0.0, 0
    for own in ids.split(window - len(begin)):
        part = torch.cat([torch.tensor(begin, dtype=torch.int64), own])
        if len(part) > 1:
            with torch.no_grad():
                logits = model(part[None]).logits[0, :-1].float()
            losses += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
            tokens += len(part) - 1
    return math.exp(losses / tokens)


def coverage(given: argparse.Namespace, text: list[str]) -> None:
    """Check 2, in the run's own dtype."""
    window, subsamples = given.window // 2, SUBSAMPLES // given.share
    run = read_run(given.run)
    workspace = opened(run, given.out / "scores", run.config.model.dtype)
    file = given.out / "long.txt"
    file.write_text("\n\n".join(text), encoding="utf-8")
    profiles = {"dense": None, "uniform": workspace.space.uniform(), "searched": read_profile(run.profile)}
    scores = score(workspace, profiles, HeldOut(str(file), COVER_TOKENS // given.share, window)).scores
    np.savez(given.out / "sums.npz", sums=scores.sums.numpy(), counts=scores.counts.numpy())
    sequences = scores.sums.shape[-1]
    print(f"\n{subsamples} subsamples of {SUBSAMPLE} of {sequences} sequences of {window} tokens.\n")
    print("| 95 % interval of | whole text | contained in | mean width |\n|---|---:|---:|---:|")
    rng = random.Random(0)
    drawn = [rng.sample(range(sequences), SUBSAMPLE) for _ in range(subsamples)]
    for at, measure in enumerate(("KL", "log perplexity")):
        counts = scores.counts[at].numpy()
        for row, name in enumerate(profiles):
            sums = scores.sums[row, at].numpy()
            if not sums.any():
                continue
            truth = sums.sum() / counts.sum()
            found = [intervals(sums[None, one], counts[None, one], seed=seed)[0] for seed, one in enumerate(drawn)]
            inside = sum(low <= truth <= high for low, high in found) / subsamples
            width = sum(high - low for low, high in found) / subsamples
            print(f"| {measure}, {name} | {truth:.4f} | {inside:.1%} | {width:.4f} |")


def tasks(given: argparse.Namespace, text: list[str]) -> None:
    """Check 3, in the run's own dtype."""
    run = read_run(given.run)
    folder = given.out / "tasks"
    folder.mkdir(exist_ok=True)
    data = folder / "next_sentence.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in questions(text, given.documents)), encoding="utf-8")
    (folder / "next_sentence.yaml").write_text(TASK.format(data=data.resolve()), encoding="utf-8")
    workspace = opened(run, given.out / "scores", run.config.model.dtype)
    found = evaluate_tasks(workspace, ("next_sentence",), TaskSettings(path=folder))["profiles"]
    exported, bos = pipeline.export(workspace, given.out / "export"), workspace.bos is not None
    line = f"run --model hf --model_args pretrained={exported},add_bos_token={bos} --tasks next_sentence"
    words = [
        *line.split(),
        "--include_path",
        str(folder),
        "--device",
        "cpu",
        "--output_path",
        str(given.out / "harness"),
    ]
    subprocess.run([sys.executable, "-m", "lm_eval", *words], check=True, capture_output=True)
    results = sorted((given.out / "harness").rglob("results_*.json"))[-1]
    theirs = json.loads(results.read_text("utf-8"))["results"]["next_sentence"]
    print(
        f"\n| next sentence, {given.documents} questions of four choices | accuracy | standard error |\n|---|---:|---:|"
    )
    for name, one in found.items():
        print(f"| {name} | {one['next_sentence']['acc']:.4f} | {one['next_sentence']['acc_stderr']:.4f} |")
    print(f"| searched: `lm_eval` on the export | {theirs['acc,none']:.4f} | {theirs['acc_stderr,none']:.4f} |")
    assert theirs["acc,none"] == found["searched"]["next_sentence"]["acc"]


def questions(text: list[str], count: int) -> list[dict[str, Any]]:
    """A sentence, and four that may follow it: the one that does, and three from elsewhere."""
    rng = random.Random(0)
    pairs = []
    for document in text:
        lines = [line for line in document.split("\n") if line.count(". ") >= 3]
        for line in lines:
            first, second = line.split(". ")[:2]
            if 40 <= len(first) <= 200 and 40 <= len(second) <= 200:
                pairs.append((first + ".", second + "."))
    found = []
    for number, (first, second) in enumerate(rng.sample(pairs, min(count, len(pairs)))):
        others = rng.sample([other for _, other in pairs if other != second], 3)
        answer = number % 4
        found.append({"text": first, "choices": [*others[:answer], second, *others[answer:]], "answer": answer})
    return found


CHECKS = {"perplexity": perplexities, "coverage": coverage, "task": tasks}

if __name__ == "__main__":
    main()
