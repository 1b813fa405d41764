"""Commands of evopress and scripts of this repository, run in this process on a pico model: seconds instead of hours.

Nothing is left out of a command: flags behind its own make it small, and small things take the names of big ones.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evopress.cli import main

SMALL = [
    *("--sequence-length", "32", "--search-tokens", "512", "--heldout-tokens", "256", "--generations", "2"),
    *("--offspring", "4", "--survivors", "2,1", "--tokens-per-stage", "32,64", "--start-tokens", "32"),
    *("--polish-tokens", "448", "--polish-watched", "64"),
]
CALIBRATED = ["--calibration-tokens", "256", "--sensitivity-tokens", "32,64"]
TARGETED = [*CALIBRATED, "--group-size", "32"]  # a target has levels of its own
MORE = {
    "quantize": [*CALIBRATED, "--levels", "2,3,4", "--group-size", "16"],
    "sparsify": CALIBRATED,
    "drop": [],
    "sweep": [*CALIBRATED, "--levels", "2,3,4", "--group-size", "16", "--start", "knapsack"],
    "compress": [*CALIBRATED, "--levels", "2,3,4", "--group-size", "16"],
}
SIZES = {"quantize": "400kB", "drop": "490kB"}
"""Budgets in bytes that the pico model can meet."""
LEAST = 0.25
"""The smallest round fraction of its depth that drops anything."""
PLACES = {"--profile": "finished/profile.txt", "--data": "my-text.txt", "--format": "hf"}
"""What a flag gets for FILE or NAME. Directories may have the name of their placeholder."""
MODELS, TEXTS = {"MODEL", "demo"}, {"wikitext2", "c4", "fineweb_edu", "demo"}

SETTINGS = {
    "data": "prose.txt",
    "sequence_length": "32",
    "search_tokens": "512",
    "heldout_tokens": "256",
    "generations": "1",
    "offspring": "4",
    "survivors": "[2,1]",
    "tokens_per_stage": "[32,64]",
    "start_tokens": "32",
    "start_candidates": "2",
    "calibration_tokens": "256",
    "sensitivity_tokens": "[64]",
    "levels": "[2,3,4]",
    "group_size": "16",
}
"""What `--set` gives the benchmarks."""
OF_BITS = {"levels", "group_size"}
FOREIGN = {"depth": OF_BITS | {"calibration_tokens"}, "sparsity": OF_BITS}
"""What other applications have no use for."""


@dataclass(frozen=True)
class Small:
    """How a script becomes small: `flags` behind its own win, `default` ones before them lose.

    `without` are the settings of `SETTINGS` that it does not take, `more` others; without None: it has no `--set`.
    """

    flags: str = ""
    default: str = ""
    without: frozenset[str] | None = None
    more: str = ""


SCRIPTS = {
    "bench_depth.py": Small(
        "--model my-model --fraction 0.34 --offspring 4 --share 64",
        without=frozenset(FOREIGN["depth"] | {"search_tokens"}),
    ),
    "bench_score.py": Small("--vocabulary 512"),
    "big_model.py": Small(
        "--device cpu --width 128 --blocks 2 --build-blocks 2 --vocabulary 512 --sequence-length 64 "
        "--calibration-tokens 512 --polish-tokens 512 --tokens-per-stage 64 256 512"
    ),
    "coverage.py": Small("--only gpt2 --kind causal"),
    "efficiency.py": Small(
        "--model my-model --our-tokens 1200 --seeds 1",
        default="--only bits-3-auto",
        without=frozenset({"start_candidates"}),
    ),
    "evaluation.py": Small("--data prose.txt --window 32 --share 16 --documents 4"),
    "gguf_quality.py": Small(
        "--model my-model --data my-text.txt --mixes Q4_K_M", without=frozenset({"data", "levels", "group_size"})
    ),
    "joint.py": Small(
        "--model my-model --data my-text.txt --second my-text.txt --bits 3 --seeds 1 --splits 0.15",
        default="--only 3-drop",
        without=frozenset(),
    ),
    "levels.py": Small("--model my-model --bits 3 --seeds 1", default="--only all", without=frozenset({"levels"})),
    "long_run.py": Small("--model my-model --only 3-any-0 --tokens 57344", without=frozenset({"generations"})),
    "packed_quality.py": Small("--model my-model", without=frozenset({"levels", "group_size"}), more="group_size=32"),
    "parts_figures.py": Small("--tokens 20000"),
    "polish.py": Small(
        "--data my-text.txt --second my-text.txt --bits 3 --seeds 1 --model my-model",
        default="--only 3-uniform",
        without=frozenset(),
        more="polish_epochs=1 polish_model_epochs=1 polish_tokens=448 polish_watched=64 polish_batch=64",
    ),
    "peers.py": Small("--model my-model --only rtn evopress --bits 3", without=frozenset()),
    "put_faults_back.py": Small("--list"),
    "tables.py": Small(
        "--model my-model --data my-text.txt --second my-text.txt --targets bits=3 --seeds 1", without=frozenset()
    ),
    "theorem_3_1.py": Small("--seeds 4 --most 32"),
    "toy_landscapes.py": Small("--seeds 1 --tokens 20000 --methods paper race"),
}


def started(words: list[str]) -> str:
    """What is wrong with an evopress command, after it ran."""
    try:
        main(small(words))
    except SystemExit as exit_:
        return f"exit code {exit_.code}" if exit_.code else ""
    return ""


def small(words: list[str]) -> list[str]:
    """The arguments with a pico model, a short text and little work."""
    _, command, *rest = (word.removesuffix("...") for word in words)
    if command == "demo":
        command, rest = "quantize", ["my-model", *(rest if "-o" in rest else [*rest, "-o", "runs/demo"]), "--bits", "3"]
    if command in MORE:
        rest[0] = "my-model" if rest[0] in MODELS else rest[0]
        rest = rest if "--data" in rest else [*rest, "--data", "my-text.txt"]
        rest += SMALL + (TARGETED if "--target" in rest and command == "quantize" else MORE[command])
        if not {"-o", "--out"} & set(rest):
            rest += ["-o", f"runs/{command}"]
    elif rest:
        provide(rest[0])
    flags = [command, *rest]
    return [command, *(value(command, flag, word) for flag, word in zip(flags, rest, strict=False))]


def value(command: str, flag: str, word: str) -> str:
    """What comes after a flag instead of `word`."""
    if word in ("FILE", "NAME"):
        return PLACES.get(flag, word)
    if flag == "--data" and (word in TEXTS or word.startswith("hub:")):
        return "other-text.txt" if command in ("evaluate", "compare") else "my-text.txt"
    if flag == "--size":
        return SIZES[command]
    if flag == "--fraction":  # of three blocks
        return word if float(word) >= LEAST else str(LEAST)
    if flag == "--sequence-length":
        return str(min(64, int(word)))
    return word


def provide(run: str) -> None:
    """A finished run where no command of the page made one."""
    if not Path(run).exists():
        shutil.copytree("finished", run)


def ran(words: Sequence[str]) -> str:
    """What is wrong with `SCRIPT.py ARGUMENTS`, after a copy of the script ran small; it writes beside that copy."""
    script = Path(words[0])
    if not script.is_file():
        return f"no {script}"
    how = SCRIPTS.get(script.name, Small())
    given, asked = split_settings(words[1:])
    if unknown := asked - set(SETTINGS):
        return f"say in tests/docs/small.py how small {', '.join(sorted(unknown))} should be"
    given = [*how.default.split(), *given, *how.flags.split()]
    if how.without is not None:
        without = how.without.union(*(own for name, own in FOREIGN.items() if any(w.startswith(name) for w in given)))
        settings = (f"{name}={value}" for name, value in SETTINGS.items() if name in asked or name not in without)
        given += ["--set", *settings, *how.more.split()]
    if script.name in ("evaluation.py", "record_demo.py"):
        provide("runs/demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *given])
        patch.syspath_prepend(str(script.resolve().parent))
        patch.setattr(subprocess, "run", in_this_process)
        before = set(sys.modules)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as exit_:
            return f"exit code {exit_.code}" if exit_.code else ""
        finally:  # modules beside the script are those of the copy
            for name in set(sys.modules) - before:
                if Path(str(getattr(sys.modules[name], "__file__", ""))).parent == script.resolve().parent:
                    del sys.modules[name]
    return ""


def split_settings(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """The arguments without `--set NAME=VALUE ...`, and the names that it sets."""
    kept, names, setting = [], set[str](), False
    for word in words:
        setting = word == "--set" or (setting and not word.startswith("--"))
        if not setting:
            kept.append(word)
        elif word != "--set":
            names.add(word.partition("=")[0])
    return kept, names


run_elsewhere: Callable[..., Any] = subprocess.run


def in_this_process(command: Sequence[Any], **options: Any) -> Any:
    """`subprocess.run` for Python programs: to start another interpreter with torch takes seconds."""
    from tests.docs.programs import problem_of

    words = list(map(str, command))
    if words[0] != sys.executable:
        return run_elsewhere(command, **options)
    if problem := problem_of(["python", *words[1:]]):
        raise subprocess.CalledProcessError(1, words, stderr=problem)
    return subprocess.CompletedProcess(words, 0)
