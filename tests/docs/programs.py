"""What each program that examples call is asked for: everything runs here that can, the rest is parsed.

| program | what is done |
| --- | --- |
| evopress, scripts, benchmarks | run on a pico model, see `small` |
| make | a dry run; the commands that it prints are treated like those of a page, but for tests and linters |
| pip | its own parser; what it is asked for is pinned, and what of it is installed satisfies the requirement |
| pytest | its own parser, and the markers |
| lm_eval, evaluate --tasks | run; tasks whose data lies on the hub are looked up, and a local one takes their place |
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
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.docs.examples import ROOT
from tests.docs.runtimes import fetched, runtime
from tests.docs.small import ran, started

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
BROUGHT = {"ruff": "ruff", "mypy": "mypy", "mkdocs": "mkdocs-material"}
"""Programs of the Makefile, and the package that brings each."""


def problem_of(words: list[str]) -> str:
    """What is wrong with a command; empty when it did, or would do, what the page says."""
    words = words[next(at for at, word in enumerate(words) if not re.match(r"[A-Z_0-9]+=", word)) :]
    name, *rest = words
    handler = HANDLERS.get(Path(name).name)
    return handler(rest) if handler else f"nothing is known of {name}; say in tests/docs/programs.py how to check it"


def dry_run(words: list[str]) -> str:
    """`make -n`, and the commands that it prints."""
    line = ["make", "-n", "-C", str(ROOT), "--no-print-directory", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"make: {done.stderr.strip()}"
    for command in done.stdout.replace("\\\n", " ").splitlines():
        found = shlex.split(command)
        program = Path(next(word for word in found if "=" not in word)).name
        if program in BROUGHT:
            problem = "" if any(unpinned(each) == "" for each in requirements(BROUGHT[program])) else f"no {program}"
        elif program in HANDLERS:
            problem = problem_of(found)
        else:
            problem = "" if shutil.which(program) or program == "command" else f"no program {program}"
        if problem:
            return f"{command}: {problem}"
    return ""


def requirements(package: str) -> Iterator[Requirement]:
    """What the extras ask of a package."""
    for text in (text for extra in EXTRAS.values() for text in extra):
        if (found := Requirement(text)).name == package:
            yield found


def installed(words: list[str]) -> str:
    """Whether pip takes the arguments, and what it is asked for can be had with the pinned versions."""
    from pip._internal.commands import create_command

    if not words or words[0] != "install":
        return f"pip {' '.join(words)} is no installation"
    try:
        options, names = create_command("install").parse_args(words[1:])
    except SystemExit:
        return f"pip does not take {' '.join(words)}"
    return next(filter(None, map(unpinned, wanted([*names, *options.editables]))), "")


def wanted(names: Iterable[str]) -> Iterator[Requirement | str]:
    """What these names stand for: this project and its extras for evopress and `.`; text says what is wrong."""
    for name in names:
        own = re.fullmatch(r"(?:evopress|\.)(?:\[([\w,-]+)\])?", name)
        if own is None:
            yield Requirement(name)
            continue
        yield from map(Requirement, PROJECT["project"]["dependencies"])
        for extra in filter(None, (own[1] or "").split(",")):
            yield from map(Requirement, EXTRAS[extra]) if extra in EXTRAS else [f"no extra {extra}"]


def unpinned(requirement: Requirement | str) -> str:
    """What is wrong with a requirement: no pinned version, or a version that does not satisfy it."""
    if isinstance(requirement, str):
        return requirement
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines) if pin}
    versions = [pins.get(canonicalize_name(requirement.name))]
    with suppress(PackageNotFoundError):
        versions.append(version(requirement.name))
    if versions[0] is None:
        return f"{requirement.name} is not in constraints.txt"
    unfit = [own for own in versions if own and own.partition("+")[0] not in requirement.specifier]
    return f"{requirement.name} {unfit[0]} is not {requirement}" if unfit else ""


def interpreted(words: list[str]) -> str:
    """`python -m MODULE ...` or `python SCRIPT ...`."""
    if words[0] != "-m":
        return ran(words)
    return "" if words[1] == "venv" else problem_of(words[1:])


def collected(words: list[str]) -> str:
    """Whether pytest knows the flags and the markers."""
    from _pytest.config import get_config

    known, unknown = get_config()._parser.parse_known_and_unknown_args(words)
    markers = {text.partition(":")[0] for text in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    asked = set(re.findall(r"\w+", known.markexpr)) - {"not", "and", "or"}
    return "".join(f"pytest does not know {word}" for word in [*unknown, *(asked - markers)])


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


HANDLERS: dict[str, Callable[[list[str]], str]] = {
    "evopress": evopress,
    "lm_eval": harness,
    "llama-completion": partial(runtime, "llama-completion"),
    "make": dry_run,
    "pip": installed,
    "pytest": collected,
    "python": interpreted,
    "python3.11": interpreted,
    "tensorboard": dashboard,
    "vllm": partial(runtime, "vllm"),
}
