"""MLX's levels: its own reading of them gives the searched ones, and mlx_lm runs what was searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_model
from safetensors.torch import save_file

import evopress
from evopress.core.profile import DENSE
from evopress.errors import ConfigError
from evopress.formats import mlx
from evopress.formats.shards import read_tensors
from evopress.formats.staging import staged
from evopress.run.observer import Observer
from evopress.steps.workspace import Workspace
from evopress.testing import write_pico_checkpoint


@given(st.sampled_from([2, 3, 4, 5, 6, 8]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_words_are_those_that_mlx_unpacks(bits: int, rows: int, groups: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, 32 * groups), generator=torch.Generator().manual_seed(seed))
    words = mlx.to_words(codes.to(torch.uint8), bits)
    assert torch.equal(mlx.from_words(words, bits), codes)
    ones, zeros = mx.ones((rows, groups)), mx.zeros((rows, groups))
    found = mx.dequantize(mx.array(words.numpy()), ones, zeros, group_size=32, bits=bits)
    assert found.tolist() == codes.float().tolist()


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mlx")
    write_pico_checkpoint(folder / "model", "qwen2", width=64)
    sizes = {"search_tokens": 256, "heldout_tokens": 128, "sequence_length": 16, "generations": 1, "polish": "none"}
    return evopress.quantize(
        str(folder / "model"), data=str(text), bits=4, target="mlx", group_size=32, method="rtn", dtype="float32",
        out=folder / "run", levels=(2, 3, 4, 5, 6, 8, 16), offspring=4, survivors=(1,), tokens_per_stage=(32,),
        start_tokens=32, sensitivity_tokens=(32,), **sizes,
    )  # fmt: skip


def test_mlx_runs_the_searched_model(run: Any) -> None:
    workspace = Workspace(run.directory, Observer())
    found, config = load_model(run.directory.export)
    assert len({json.dumps(level) for name, level in config["quantization"].items() if "." in name}) > 2
    ids = [[5, 6, 7, 8, 9]]
    logits = torch.tensor(found(mx.array(ids)).astype(mx.float32).tolist())
    wanted = workspace.searched(run.profile).logits(torch.tensor(ids))
    assert float((logits - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_its_own_formula_gives_the_searched_levels_bit_for_bit(run: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """Of files in the dtypes that models have; nothing of the writer is used but the bits."""
    workspace = Workspace(run.directory, Observer())
    workspace.loaded.model.to(dtype)
    format = mlx.Mlx()
    with staged(tmp_path / "out", 0) as partial:
        format.write(workspace.source, workspace.content(run.profile), partial, lambda done, total: None)
    stored = read_tensors(tmp_path / "out")
    levels = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    for name, level in run.profile.items():
        if level == DENSE:
            assert levels[name] is False
            continue
        assert levels[name] == {"group_size": 32, "bits": int(level), "mode": "affine"}
        scales, biases = stored[f"{name}.scales"].double(), stored[f"{name}.biases"].double()
        bits = ["".join(format_bits(word) for word in row) for row in stored[f"{name}.weight"].to(torch.int64).tolist()]
        width = int(level)
        codes = torch.tensor([[int(row[at : at + width][::-1], 2) for at in range(0, len(row), width)] for row in bits])
        values = codes.view(len(scales), -1, 32) * scales[..., None] + biases[..., None]
        assert torch.equal(values.flatten(1).to(dtype), workspace.database.dense(name, level, dtype))


def format_bits(word: int) -> str:
    """32 binary digits, the lowest first."""
    return f"{word:032b}"[::-1]


def test_a_damaged_file_is_noticed(run: Any, tmp_path: Path) -> None:
    workspace = Workspace(run.directory, Observer())
    content, searched = workspace.content(run.profile), workspace.searched(run.profile)
    with staged(tmp_path / "out", 0) as partial:
        mlx.Mlx().write(workspace.source, content, partial, lambda done, total: None)
    whole = mlx.Mlx().verify(workspace.source, content, tmp_path / "out", searched)
    assert (whole.consumer, whole.failed) == ("mlx_lm", False)
    stored = read_tensors(tmp_path / "out")
    name = next(name for name in stored if name.endswith(".scales"))
    save_file(stored | {name: stored[name] * 1.5}, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    assert mlx.Mlx().verify(workspace.source, content, tmp_path / "out", searched).failed


def test_without_mlx_it_is_unpacked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx, "find_spec", lambda name: None)
    workspace = Workspace(run.directory, Observer())
    content, searched = workspace.content(run.profile), workspace.searched(run.profile)
    found = mlx.Mlx().verify(workspace.source, content, run.directory.export, searched)
    assert found.difference == 0


def test_groups_without_kernels_are_refused(run: Any, text: Path, tmp_path: Path) -> None:
    model = run.directory.config.model.source
    with pytest.raises(ConfigError, match="does not run groups of 16; use 32, 64, 128"):
        evopress.quantize(model, data=str(text), bits=4, target="mlx", group_size=16, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="does not run the level 7"):
        evopress.quantize(model, data=str(text), bits=4, target="mlx", levels=(4, 7), out=tmp_path / "run")
