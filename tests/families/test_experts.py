"""Dropping experts: as many in every layer, exported as a model of fewer, and one line for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from evopress import pipeline
from evopress.core.profile import DROP, KEEP
from evopress.errors import BudgetError, ConfigError, EvopressError, UnsupportedModel
from evopress.families import DropExperts
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.compare import compare
from evopress.steps.workspace import Workspace

Mixture = Callable[[str], str]
EXPERT: dict[str, Any] = {"fraction": 0.25, "granularity": "expert", "dtype": "float32"}


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_exports_have_fewer_experts_and_answer_as_searched(
    model_type: str, small_other: dict[str, Any], tmp_path: Path, mixture: Mixture
) -> None:
    source = mixture(model_type)
    run = pipeline.drop(out=tmp_path / "run", **small_other | {"model": source} | EXPERT)  # verified bit for bit
    workspace = Workspace(run.directory, Observer())
    family = workspace.family
    assert isinstance(family, DropExperts)
    kept = family.kept(run.profile)
    assert {len(numbers) for numbers in kept.values()} == {3}
    dense, export = load_file(Path(source) / "model.safetensors"), load_file(run.directory.export / "model.safetensors")
    sizes = family.sizes(run.profile)
    assert sizes["parameters"] == sum(
        tensor.numel() for name, tensor in export.items() if not name.endswith("e_score_correction_bias")
    )
    assert sizes["dropped_experts"] == 1
    for layer, numbers in kept.items():
        router = next(name for name in family.layers[0].rows if name.endswith(("gate.weight", "router.weight")))
        name = router.replace(family.layers[0].path.rpartition(".")[0], layer.rpartition(".")[0])
        name = name.replace(".mlp.", ".block_sparse_moe.") if model_type == "mixtral" else name
        assert torch.equal(export[name], dense[name][list(numbers)])
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(run.directory.export, dtype=torch.float32)
    assert model(torch.arange(20, 36)[None]).logits.isfinite().all()


def test_all_ways_to_choose_are_compared(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    run = pipeline.drop(out=tmp_path / "run", **small_other | {"model": mixture("qwen3_moe")} | EXPERT)
    workspace = Workspace(run.directory, Observer())
    assert list(workspace.family.starts) == ["reap", "frequency"]
    assert compare(workspace)["skipped"] == {}
    assert {file.stem for file in (run.directory.path / "compare").glob("*.json")} == {"best-of", "frequency", "reap"}


def test_protected_experts_stay(small_other: dict[str, Any], tmp_path: Path, mixture: Mixture) -> None:
    own = EXPERT | {"protected": ("model.layers.1.mlp.experts.0", "model.layers.1.mlp.experts.2"), "fraction": 0.5}
    config = resolve(**small_other | {"model": mixture("mixtral")} | own)
    workspace = Workspace(start_run(tmp_path / "run", config), Observer())
    for profile in workspace.family.starts.values():
        assert profile["model.layers.1.mlp.experts.0"] == profile["model.layers.1.mlp.experts.2"] == KEEP
        assert profile["model.layers.1.mlp.experts.1"] == profile["model.layers.1.mlp.experts.3"] == DROP


@pytest.mark.parametrize(
    ("own", "kind", "message"),
    [
        ({"fraction": 0.75}, BudgetError, "drops 3 experts of .*: 2 of its 4 experts can go, as a token needs 2"),
        ({"fraction": 0.1}, BudgetError, "drops 0 experts of "),
        ({"counts": "parameters"}, ConfigError, "as many in every layer; give --fraction, not parameters"),
        ({"protected": ("model.layers.9.mlp.experts.0",)}, ConfigError, "names model.layers.9.*, which is no expert"),
        ({"model": "llama"}, UnsupportedModel, "has no experts to drop"),
    ],
)
def test_what_cannot_be_dropped_is_said_before_any_work(
    own: dict[str, Any],
    kind: type[EvopressError],
    message: str,
    small_other: dict[str, Any],
    checkpoint: Path,
    tmp_path: Path,
    mixture: Mixture,
) -> None:
    model = str(checkpoint) if own.get("model") == "llama" else mixture("mixtral")
    with pytest.raises(kind, match=message):
        pipeline.drop(out=tmp_path / "run", **small_other | EXPERT | own | {"model": model})
