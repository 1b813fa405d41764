"""All three applications on each device: scores are those of the processor, up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evopress


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("application", "budget"), [("quantize", "bits"), ("sparsify", "sparsity"), ("drop", "fraction")]
)
def test_a_run_scores_what_it_scores_on_the_processor(
    small: dict[str, Any], tmp_path: Path, application: str, budget: str, device: str
) -> None:
    own = {"bits": {"bits": 3}, "sparsity": {"sparsity": 0.5}, "fraction": {"fraction": 0.34}}[budget]
    unknown = {"levels", "group_size"} if budget != "bits" else set()
    unknown |= {"calibration_tokens", "sensitivity_tokens"} if budget == "fraction" else set()
    settings = {name: value for name, value in small.items() if name not in {"bits", *unknown}} | own
    runs = [
        getattr(evopress, application)(out=tmp_path / each, device=each, dtype="float32", start="uniform", **settings)
        for each in ("cpu", device)
    ]
    ours, theirs = (run.evaluation["profiles"] for run in runs)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"searched"}:  # rounding may choose another child
        assert ours[name]["perplexity"] == pytest.approx(theirs[name]["perplexity"], rel=1e-3)
        assert ours[name]["kl"] == pytest.approx(theirs[name]["kl"], rel=0.02, abs=1e-5)
