"""Running the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from evopress.cli import main

SIZES = (
    "--sequence-length 16 --calibration-tokens 256 --search-tokens 512 --heldout-tokens 256 --generations 3 "
    "--offspring 4 --survivors 2,1 --tokens-per-stage 32,64 --start-tokens 32 "
    "--sensitivity-tokens 64,128 --polish none"
)
FLAGS = f"--bits 3 --levels 2,3,4 --group-size 16 {SIZES}"


@dataclass(frozen=True)
class Result:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """`call("inspect", path)` runs a command; extra words may be one string with spaces."""

    def run(*words: str | Path) -> Result:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def sizes() -> list[str]:
    """Flags with which a whole run of any application on a pico model takes a fraction of a second."""
    return SIZES.split()


@pytest.fixture
def quantize(call: Call, checkpoint: Path, text: Path) -> Call:
    """`quantize(out, "--seed", "1")`: a whole small run; later flags win over the default ones.

    `command` may be another one that takes such flags.
    """

    def run(
        out: Path,
        *words: str | Path,
        model: str | Path = checkpoint,
        data: str | Path = text,
        command: str = "quantize",
    ) -> Result:
        return call(command, model, "-o", out, "--data", data, *FLAGS.split(), *words)

    return run
