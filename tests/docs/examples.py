"""What the pages hold: blocks of code, and commands in running text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
PROGRAMS = ("evopress", "make", "python", "pip", "lm_eval", "vllm", "llama-completion", "tensorboard")
SPAN = re.compile(rf"`(?P<body>(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}) [^`]+)`")


@dataclass(frozen=True)
class Example:
    """Something to run: `kind` is python or sh, `line` where it begins on its page."""

    line: int
    kind: str
    body: str


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *kinds: str) -> list[Example]:
    """The blocks of some kinds."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match["kind"] in kinds]
    return [Example(text.count("\n", 0, match.start("body")) + 1, match["kind"], match["body"]) for match in found]


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """The commands of a shell block, each with the number of its line in it; comments are left out."""
    for number, command in enumerate(text.replace("\\\n", " ").splitlines()):
        if words := shlex.split(command, comments=True):
            yield number, words


def mentioned(page: Path) -> list[Example]:
    """Whole commands in running text: what has no argument, or only flags, names a command."""
    text = page.read_text(encoding="utf-8")
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found = [
        Example(text.count("\n", 0, match.start()) + 1, "sh", " ".join(match["body"].split()) + "\n")
        for match in SPAN.finditer(text)
    ]
    return [one for one in found if is_whole(shlex.split(one.body))]


def is_whole(words: list[str]) -> bool:
    """Whether a command could be typed as it stands, with something in the place of its placeholders.

    >>> [is_whole(text.split()) for text in ("evopress demo", "evopress export DIR", "evopress evaluate --tasks")]
    [True, True, False]
    """
    return words[0] != "evopress" or words[1] == "demo" or (len(words) > 2 and not words[2].startswith("-"))
