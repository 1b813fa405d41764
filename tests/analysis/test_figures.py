"""Figures are files of the kind asked for, the same bytes each time, and drawn for results at their limits, too."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from evopress import analysis
from evopress.analysis import (
    Distance,
    ErrorCorrelation,
    Landscape,
    Neighbour,
    Pair,
    Supersets,
    cuts,
    draw_comparison,
    draw_errors,
    draw_landscape,
    draw_noise,
    draw_supersets,
    measure_noise,
    piece_scores,
)
from evopress.errors import ConfigError, MissingExtra
from evopress.search import Stage

Draw = Callable[[Any, Path], None]


def noise(stages: list[Stage]) -> analysis.Noise:
    rng = np.random.default_rng(0)
    pieces = cuts([64] * 32, shortest=16)
    sums = rng.normal(size=(12, len(pieces))) + np.arange(12.0)[:, None]
    return measure_noise(piece_scores(sums, np.ones(len(pieces)), pieces), Random(0), stages=stages, repeats=50)


ERRORS = ErrorCorrelation(64, 0, 0.5, 0.5, 0.1, 0.8, (1.0, 2.0, 3.0, 4.0), (0.5, 0.7, 9.0, 0.6))
SUPERSETS = Supersets(64, 640, 3, tuple(Pair(("a",), ("a", "b"), 2.0 + i, 2.5) for i in range(3)))
NEIGHBOURS = tuple(Neighbour("a", "b", change / 10) for change in range(-3, 40))
DISTANCES = tuple(Distance(2**i, 9, 0.9 - i / 5, 0.9, 0.1, 0.2) for i in range(5))
LANDSCAPE = Landscape(64, 1.0, 99, 0, NEIGHBOURS, DISTANCES)
COMPARISON = {
    "data": {"source": "demo"},
    "tokens": 8192,
    "profiles": {
        "dense": {"kl": 0.0, "perplexity": 20.0},
        "uniform": {"kl": 0.9, "perplexity": 44.0},
        "searched": {"kl": 0.7, "perplexity": 36.0, "kl_spread": 0.02, "seeds": 3},
    },
}
DRAWINGS: list[tuple[Draw, Any]] = [
    (draw_errors, ERRORS),
    (draw_supersets, SUPERSETS),
    (draw_landscape, LANDSCAPE),
    (draw_noise, noise([Stage(64, 3), Stage(256, 1)])),
    (draw_comparison, COMPARISON),
]
LIMITS: list[tuple[Draw, Any]] = [
    (draw_supersets, Supersets(64, 640, 0, ())),
    (draw_landscape, Landscape(64, 1.0, 1, 0, NEIGHBOURS[:1], ())),
    (draw_noise, noise([])),
]


@pytest.mark.parametrize(("draw", "found"), DRAWINGS)
def test_svg_and_png(draw: Draw, found: object, tmp_path: Path) -> None:
    first, second, picture = (tmp_path / "new" / name for name in ("a.svg", "b.svg", "c.png"))
    for path in (first, second, picture):
        draw(found, path)
    assert first.read_bytes() == second.read_bytes()
    assert b"</svg>" in first.read_bytes()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("draw", "found"), LIMITS)
def test_results_with_nothing_in_them(draw: Draw, found: object, tmp_path: Path) -> None:
    draw(found, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").exists()


def test_labels_say_what_is_drawn(tmp_path: Path) -> None:
    draw_noise(noise([Stage(64, 3), Stage(256, 1)]), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for label in ("rank correlation with all 2048", "chance that the best is discarded", "keeps 3"):
        assert label in text


def test_a_few_ruinous_switches_do_not_squash_the_others(tmp_path: Path) -> None:
    ruinous = replace(LANDSCAPE, neighbours=(*NEIGHBOURS, Neighbour("a", "b", 1000.0)))
    for name, found in {"plain.svg": LANDSCAPE, "ruinous.svg": ruinous}.items():
        draw_landscape(found, tmp_path / name)
        logarithmic = "10^{2}" in (tmp_path / name).read_text(encoding="utf-8")
        assert logarithmic == (found is ruinous)


def test_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot draw 'a.gif'; give a file that ends in .svg or .png"):
        draw_errors(ERRORS, tmp_path / "a.gif")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'evopress\[plot\]'"):
        draw_errors(ERRORS, tmp_path / "a.svg")
