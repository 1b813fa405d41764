"""What each program that examples call is asked for: everything runs here that can.

| program | what is done |
| --- | --- |
| evopress, scripts, benchmarks | run on a pico model, see `small` |
| make | a dry run; the commands that it prints are run like those of a page |
| pip, venv | run, without the network, into an environment made for it: `installing` |
| ruff, mypy, mkdocs | run |
| pytest | run, but the tests are only collected, as they would start themselves |
| lm_eval, evaluate --tasks | run; tasks whose data lies on the hub are looked up, and a local one takes their place |
| mlx_lm.generate | run, for two tokens |
| tensorboard | its server starts and has the events |
| vllm, llama-completion | run where they are installed, else flags from a list; the checkpoint is there: `runtimes` |
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.docs.examples import ROOT
from tests.docs.installing import checked, environment, installed
from tests.docs.runtimes import fetched, runtime
from tests.docs.small import ran, started


def problem_of(words: list[str]) -> str:
    """What is wrong with a command; empty when it did, or would do, what the page says."""
    words = words[next(at for at, word in enumerate(words) if not re.match(r"[A-Z_0-9]+=", word)) :]
    name, *rest = words
    handler = HANDLERS.get(Path(name).name)
    return handler(rest) if handler else f"nothing is known of {name}; say in tests/docs/programs.py how to check it"


def dry_run(words: list[str]) -> str:
    """`make -n`, and the commands that it prints; those of the shell have to exist."""
    line = ["make", "-n", "--always-make", "-C", str(ROOT), "--no-print-directory", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"make: {done.stderr.strip()}"
    for command in done.stdout.replace("\\\n", " ").splitlines():
        found = shlex.split(command)
        program = Path(next(word for word in found if "=" not in word)).name
        if program in HANDLERS:
            problem = problem_of(found)
        else:
            problem = "" if shutil.which(program) or program == "command" else f"no program {program}"
        if problem:
            return f"{command}: {problem}"
    return ""


def interpreted(words: list[str]) -> str:
    """`python -m MODULE ...` or `python SCRIPT ...`."""
    return problem_of(words[1:]) if words[0] == "-m" else ran(words)


def harness(words: list[str]) -> str:
    """The harness's command line; without data of the hub, and without reading its list of thousands of tasks."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks import TaskManager

    words, problem = stand_in(words, "--include_path")
    if problem:
        return problem
    whole = TaskManager.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TaskManager, "__init__", lambda self, **options: whole(self, **options | {"include_defaults": False})
        )
        patch.setattr(os, "environ", dict(os.environ))
        patch.setattr(sys, "argv", ["lm_eval", *words, *(["--device", "cpu"] if "--model" in words else [])])
        try:
            cli_evaluate()
        except SystemExit as exit_:
            return f"exit code {exit_.code}" if exit_.code else ""
    return ""


def evopress(words: list[str]) -> str:
    """A command of evopress."""
    words, problem = stand_in(words, "--task-path")
    return problem or started(["evopress", *words])


def stand_in(words: list[str], path: str) -> tuple[list[str], str]:
    """The command with a local task instead of tasks of the hub, and what is wrong with their names.

    `path` is the flag that names a directory of task files.
    """
    if "--tasks" not in words or path in words:
        return words, ""
    at = words.index("--tasks") + 1
    missing = [name for name in words[at].split(",") if not known_task(name)]
    if missing:
        return words, f"the harness has no task {', '.join(missing)}"
    return [*words[:at], "stand-in", *words[at + 1 :], path, "tasks-of-the-tests"], ""


def known_task(name: str) -> bool:
    """Whether the harness's index of the directories that speak of a task has it."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    stem = name.partition("_")[0]
    near = {*folder.glob(f"{stem}*/"), *(file.parent for file in folder.glob(f"*/{stem}*.yaml"))}
    managers = (lm_eval.tasks.TaskManager(include_path=str(one), include_defaults=False) for one in near)
    return any(name in manager.all_tasks for manager in managers)


def dashboard(words: list[str]) -> str:
    """Whether TensorBoard takes the arguments, and its page shows something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what comes with it
        from tensorboard import program

        board = program.TensorBoard()
        try:
            board.configure(argv=["tensorboard", *words, "--port", "0", "--load_fast", "false"])
        except SystemExit:
            return f"tensorboard does not take {' '.join(words)}"
        runs = json.loads(fetched(f"{board.launch()}data/runs"))
    return "" if runs else f"no events in {board.flags.logdir}"


def generated(words: list[str]) -> str:
    """Two tokens of mlx_lm."""
    line = [sys.executable, "-m", "mlx_lm", "generate", *words, "--max-tokens", "2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return f"mlx_lm: {done.stderr.strip()[-300:]}" if done.returncode else ""


HANDLERS: dict[str, Callable[[list[str]], str]] = {
    "evopress": evopress,
    "lm_eval": harness,
    "llama-completion": partial(runtime, "llama-completion"),
    "make": dry_run,
    "mlx_lm.generate": generated,
    "mkdocs": partial(checked, "mkdocs"),
    "mypy": partial(checked, "mypy"),
    "pip": installed,
    "pytest": partial(checked, "pytest"),
    "python": interpreted,
    "python3.11": interpreted,
    "ruff": partial(checked, "ruff"),
    "tensorboard": dashboard,
    "venv": environment,
    "vllm": partial(runtime, "vllm"),
}
