"""One width for every weight, by other tools and by evopress: held-out KL and perplexity of SmolLM2 at 2, 3 and 4 bits.

A search is only as good as the levels that it chooses from. All tools get the same model, the same calibration tokens
(those that evopress calibrates on), the same bits, groups of 64 and asymmetric grids; embedding and head stay dense.
Each works in a process and an environment of its own (`peers_quantize.py`, whose docstring says how each is set), and
hands back dequantized weights. Here it is checked that they lie on such grids and that nothing else changed, and the
evaluation of evopress scores them, the same for all.

    python benchmarks/peers.py runs/peers --environments          # pip install of each tool into runs/peers/env-*
    OMP_NUM_THREADS=1 python benchmarks/peers.py runs/peers       # all tools at 3, 2 and 4 bits: a day of one core
    OMP_NUM_THREADS=1 python benchmarks/peers.py runs/peers --only rtn evopress --bits 3
    python benchmarks/peers.py runs/peers --only evopress --set act_order=true
    python benchmarks/peers.py runs/peers --only autoround-200 --python python3 --device cuda
    python benchmarks/peers.py runs/peers --only-table

A finished row is a line of a file that is kept with the sources, and is not repeated; one that failed says why and is
tried again. Settings of how levels are made (`--set act_order=true`) concern `evopress` alone, whose CPU seconds are
those of a database with one level unless `--set levels=[2,3,4]` says more. CPU seconds are those of the quantization,
compilers included, without imports; the child's in all are in the rows too. With the CPU build of torch an environment
takes about a gigabyte: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peers_rows import PEERS, Job, finished, jobs, table, task
from run_settings import add_settings
from safetensors.torch import load_file, save_file

from evopress.core.files import write_text
from evopress.core.profile import Profile
from evopress.errors import RunLocked
from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Evaluator
from evopress.models import ModelMap
from evopress.models.assemble import Assembly, WeightSlot
from evopress.run.directory import locked, read_run, start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.workspace import Workspace

ROWS = Path(__file__).parent / "results" / "peers.jsonl"
QUANTIZE = Path(__file__).with_name("peers_quantize.py")
ENVIRONMENTS = {
    "autoround": ("auto-round==0.16.1", "torch==2.13.0", "transformers==5.17.0"),
    "llmcompressor": ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "torch==2.13.0", "transformers==5.17.0"),
    "hqq": ("hqq==0.2.8.post1", "torch==2.13.0", "transformers==5.17.0"),
}
"""What is installed where. llm-compressor 0.14.0.1 takes no newer transformers, and this compressed-tensors alone."""
FOLDING = ("llmcompressor-awq",)
GROUP_SIZE = 64


class BadPeer(Exception):
    """What a tool made is not what it was asked for, or it made nothing."""


def prepare(options: argparse.Namespace) -> Workspace:
    """The dense model, and in the folder what the tools are given of it: a checkpoint and token ids."""
    config = resolve(options.model, bits=3, **{"levels": (3,), "group_size": GROUP_SIZE} | task(options.set))
    workspace = Workspace(start_run(options.folder / "base", config), Observer())
    sequences = workspace.splits.calibration.sequences
    if len({len(sequence) for sequence in sequences}) != 1:
        raise SystemExit("calibration sequences differ in length; choose calibration_tokens that fill them")
    made = {name: workspace.fingerprints[name] for name in ("model", "calibration")}
    file = options.folder / "made-from.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != made:
        raise SystemExit(f"{options.folder} was made from another model or text; use another folder")
    if not file.exists():
        workspace.loaded.model.save_pretrained(options.folder / "dense")
        workspace.loaded.tokenizer.save_pretrained(options.folder / "dense")
        save_file({"ids": torch.stack(sequences)}, options.folder / "calibration.safetensors")
        write_text(file, json.dumps(made))
    return workspace


def run(options: argparse.Namespace, workspace: Workspace, job: Job) -> dict[str, Any]:
    """Quantize in another process, check and score; the row."""
    out = options.folder / job.name
    group = workspace.config.compression.group_size
    row = {"peer": job.peer, "bits": job.bits, "model": job.model, "settings": job.settings}
    try:
        total = quantize(options, job, group, out)
        about = json.loads((out / "about.json").read_text(encoding="utf-8"))
        found = load_file(out / "model.safetensors")
        folded = check(workspace.loaded.model, workspace.map, found, job.bits, group, folds=job.peer in FOLDING)
    except BadPeer as error:
        return row | {"failed": str(error)}
    if PEERS[job.peer] is None:
        row["compression"] = read_run(out / "run").config.compression.model_dump()
    splits = workspace.splits
    tokens = {"calibration": splits.calibration.record(), "heldout": splits.heldout.record()}
    row |= score(workspace, found) | {"process_cpu_seconds": total, "folded": len(folded), "tokens": tokens}
    return row | about


def quantize(options: argparse.Namespace, job: Job, group: int, out: Path) -> float:
    """Have a peer quantize; CPU seconds of its process. BadPeer with the last line that it wrote."""
    home = PEERS[job.peer]
    python = sys.executable if home is None else options.python or options.folder / f"env-{home}" / "bin" / "python"
    command = [python, QUANTIZE, job.peer, options.folder, out, "--bits", job.bits, "--group-size", group]
    command += ["--device", options.device]
    if home is None:
        own = {"method": "rtn"} if job.peer == "rtn" else {}
        command += ["--settings", json.dumps(job.settings | own)]
    # Compilers work in the process, so that their time is counted, and find nothing of an earlier row.
    extra = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(out / "compiled")}
    for old in ("about.json", "model.safetensors"):
        (out / old).unlink(missing_ok=True)
    for old in ("run", "compiled"):
        shutil.rmtree(out / old, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (out / "log.txt").open("w") as log:
        words = list(map(str, command))
        ended = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=os.environ | extra, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode < 0:
        raise SystemExit(f"{job.name} was ended by signal {-ended.returncode}; run again to go on")
    if ended.returncode:
        lines = (out / "log.txt").read_text(errors="replace").split("\n")
        raise BadPeer(next((line.strip() for line in reversed(lines) if line.strip()), "no output"))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check(
    model: Any, map: ModelMap, found: Mapping[str, torch.Tensor], bits: int, group: int, *, folds: bool
) -> list[str]:
    """BadPeer unless each group of each row of each linear has at most 2**bits values, and all else is as it was.

    A tool that `folds` may change vectors of the blocks too, which means norms; their names.
    """
    dense = dict(model.named_parameters())
    views = {linear.view.parameter: linear.view for linear in map.linears}
    if missing := dense.keys() - found.keys():
        raise BadPeer(f"no {min(missing)} among what was written")
    for name, view in views.items():
        weight = found[name].T if view.transposed else found[name]
        if (most := most_values(weight.to(model.dtype), group)) > 2**bits:
            raise BadPeer(f"{name} has {most} values in a group of {group}, which are no {bits} bits")
    others = [name for name in dense if name not in views and not torch.equal(found[name], dense[name].cpu())]
    for name in others:
        if not folds or dense[name].ndim != 1 or not name.startswith(f"{map.blocks}."):
            raise BadPeer(f"{name} was to stay as it is")
    return others


def most_values(weight: torch.Tensor, group: int) -> int:
    """The most distinct values in a group of a row (rows, columns).

    >>> most_values(torch.tensor([[1.0, 1.0, 2.0, 3.0]]), 2)
    2
    """
    most = 0
    for columns in weight.split(group, dim=1):
        ordered = columns.sort(dim=1).values
        most = max(most, 1 + int((ordered[:, 1:] != ordered[:, :-1]).sum(1).max()))
    return most


def score(workspace: Workspace, found: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """KL and perplexity on all held-out text of the model with these parameters in its blocks; the dense perplexity."""
    model, map = workspace.loaded.model, workspace.map

    def load(name: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        return found[name].to(workspace.device, dtype)

    slots: list[list[WeightSlot]] = [[] for _ in range(map.n_blocks + 2)]
    for name, parameter in model.named_parameters():
        if name.startswith(f"{map.blocks}."):
            block = int(name.removeprefix(f"{map.blocks}.").partition(".")[0])
            slots[block].append(WeightSlot(name, parameter, load))
    profile = Profile.of({slot.name: "found" for own in slots for slot in own})
    with Assembly(slots) as assembly:
        evaluator = Evaluator(workspace.runner, assembly, workspace.splits.heldout, (KL(), Perplexity()))
        scores = evaluator.evaluate_all([None, profile])
    dense, perplexity = scores.scores(1)
    return {"kl": scores.scores(0)[1], "perplexity": perplexity, "dense_perplexity": dense}


def install(folder: Path, wanted: Sequence[str]) -> None:
    """Make the environments of these tools that are not there."""
    for name, packages in ENVIRONMENTS.items():
        home = folder / f"env-{name}"
        if name in {PEERS[peer] for peer in wanted} and not (home / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
            (home / "complete").touch()


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_settings(parser)
    parser.add_argument("--bits", nargs="+", type=int, default=[3, 2, 4])
    parser.add_argument("--only", nargs="+", choices=list(PEERS))
    parser.add_argument("--python", help="interpreter of the other tools, in place of FOLDER/env-*/bin/python")
    parser.add_argument("--device", default="cpu", help="where the tools work, cpu or cuda")
    parser.add_argument("--environments", action="store_true", help="make the tools' environments and stop")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of finished rows")
    options = parser.parse_args()
    if options.environments:
        install(options.folder, options.only or list(PEERS))
        return
    known = finished(options.rows)
    wanted = jobs(options.model, options.bits, options.only, options.set)
    missing = [job for job in wanted if "kl" not in known.get(job, {})]
    if missing and not options.only_table:
        workspace = prepare(options)
        for job in missing:
            try:
                with locked(options.folder / job.name):
                    if "kl" in finished(options.rows).get(job, {}):  # another process was faster
                        continue
                    print(job.name, flush=True)
                    row = run(options, workspace, job)
                    with options.rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            except RunLocked:
                print(f"{job.name} is made by another process", flush=True)
    print(table(options.rows))


if __name__ == "__main__":
    main()
