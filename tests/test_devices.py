"""All three applications on each device: scores are those of the processor up to rounding, and runs repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evopress
from evopress.database.manifest import read_manifest

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
BITS = ("quantize", {"bits": 3, "levels": (2, 3, 4), "group_size": 16})
SPARSITY = ("sparsify", {"sparsity": 0.5})
DEPTH = ("drop", {"fraction": 0.34, "calibration_tokens": None, "sensitivity_tokens": None})
applications = pytest.mark.parametrize(("application", "own"), [BITS, SPARSITY, DEPTH])


@devices
@applications
def test_a_run_scores_what_it_scores_on_the_processor(
    small_other: dict[str, Any], tmp_path: Path, application: str, own: dict[str, Any], device: str
) -> None:
    """On the levels that the processor made: rounding decides which grid point is nearest, and then much follows."""
    settings = small_other | own
    if application != "drop":
        settings["database"] = str(tmp_path / "database")
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
@pytest.mark.parametrize(("application", "own"), [BITS, SPARSITY])
def test_levels_are_as_good_as_those_that_the_processor_makes(
    small_other: dict[str, Any], tmp_path: Path, application: str, own: dict[str, Any], device: str
) -> None:
    settings = small_other | own
    made = []
    for number, each in enumerate(("cpu", device)):
        getattr(evopress, application)(
            out=tmp_path / f"run {number}", database=str(tmp_path / f"{number}"), device=each, **settings
        )
        units = read_manifest(tmp_path / f"{number}").units
        made.append({(name, level.name): level.error for name, unit in units.items() for level in unit.levels})
    ours, theirs = made
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 2 * len({unit for unit, _ in ours})
    assert [theirs[key] for key in ours] == pytest.approx([ours[key] for key in ours], rel=0.1, abs=1e-6)


@devices
@applications
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_seed_finds_the_same_with_everything_on(
    small_other: dict[str, Any],
    tmp_path: Path,
    application: str,
    own: dict[str, Any],
    device: str,
    dtype: str,
) -> None:
    settings = small_other | own
    one, other = (
        getattr(evopress, application)(out=tmp_path / name, device=device, dtype=dtype, race=True, **settings)
        for name in ("one", "other")
    )
    assert one.profile == other.profile
    assert one.evaluation["profiles"] == other.evaluation["profiles"]
