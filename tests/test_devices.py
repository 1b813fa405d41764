"""All three applications on each device: scores are those of the processor up to rounding, and runs repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evopress

OF_BITS = {"bits", "levels", "group_size"}

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
applications = pytest.mark.parametrize(
    ("application", "own", "foreign"),
    [
        ("quantize", {"bits": 3}, set[str]()),
        ("sparsify", {"sparsity": 0.5}, OF_BITS),
        ("drop", {"fraction": 0.34}, OF_BITS | {"calibration_tokens", "sensitivity_tokens"}),
    ],
)


@devices
@applications
def test_a_run_scores_what_it_scores_on_the_processor(
    small: dict[str, Any], tmp_path: Path, application: str, own: dict[str, Any], foreign: set[str], device: str
) -> None:
    settings = {name: value for name, value in small.items() if name not in foreign} | own
    ours, theirs = (
        getattr(evopress, application)(
            out=tmp_path / str(number), device=each, dtype="float32", start="uniform", **settings
        ).evaluation["profiles"]
        for number, each in enumerate(("cpu", device))
    )
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"searched"}:  # rounding may choose another child
        assert theirs[name]["perplexity"] == pytest.approx(ours[name]["perplexity"], rel=1e-3)
        assert theirs[name]["kl"] == pytest.approx(ours[name]["kl"], rel=0.02, abs=1e-5)


@devices
@applications
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_seed_finds_the_same_with_everything_on(
    small: dict[str, Any],
    tmp_path: Path,
    application: str,
    own: dict[str, Any],
    foreign: set[str],
    device: str,
    dtype: str,
) -> None:
    settings = {name: value for name, value in small.items() if name not in foreign} | own
    one, other = (
        getattr(evopress, application)(out=tmp_path / name, device=device, dtype=dtype, race=True, **settings)
        for name in ("one", "other")
    )
    assert one.profile == other.profile
    assert one.evaluation["profiles"] == other.evaluation["profiles"]
