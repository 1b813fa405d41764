"""Commands that install and check: run for real, away from this environment, and without the network.

pip installs into an environment that sees the packages of this one, so it has nothing to download: what a page asks for
has to be satisfied by what the tests run with. What checks the sources is run on the sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.docs.examples import ROOT

OFFLINE = ("--no-index", "--no-build-isolation")
"""pip takes nothing but what is there; the package that builds this one is there, too."""
EXTRA = "does not provide the extra"
"""A mere warning of pip's, with which it installs less than it was asked for."""


def environment(words: list[str]) -> str:
    """`python -m venv`, without a pip of its own; it sees the packages of this environment."""
    folder = Path(words[-1]).absolute()
    if problem := ended([sys.executable, "-m", "venv", "--without-pip", *words[:-1], str(folder)]):
        return problem
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "around.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return ""


def installed(words: list[str]) -> str:
    """`pip install`, into an environment of its own, once for all pages."""
    return _installed(tuple(words))


@cache
def _installed(words: tuple[str, ...]) -> str:
    folder = Path("installed").absolute()
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    return environment([str(folder)]) or ended([*pip, *words, *OFFLINE], EXTRA, PIP_CONFIG_FILE=os.devnull)


def checked(program: str, words: list[str]) -> str:
    """What checks the sources, once for all pages; mkdocs builds into the page's directory, pytest only collects.

    It does so in two files that together have tests of every marker.
    """
    few = ["tests/models/test_load.py", "tests/test_devices.py"]
    more = {
        "mkdocs": ["--site-dir", str(Path("site").absolute())],
        "pytest": ["--collect-only", "-pno:cacheprovider", *few],
    }
    return _checked(program, tuple(words), tuple(more.get(program, ())))


@cache
def _checked(program: str, words: tuple[str, ...], more: tuple[str, ...]) -> str:
    return ended([sys.executable, "-m", program, *words, *more], NO_MKDOCS_2_WARNING="1")


def ended(command: Sequence[str], warning: str | None = None, **variables: str) -> str:
    """The last lines of a program that fails, or that warns."""
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=600, check=False
    )
    said = done.stdout + done.stderr
    return said[-2000:] if done.returncode or (warning and warning in said) else ""
