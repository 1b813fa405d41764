"""Every format of the table: the files have the predicted bytes, and what loads is the searched model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import evopress
from evopress import pipeline
from evopress.core.profile import Profile
from evopress.errors import ConfigError, VerificationError
from evopress.formats.format import Format
from evopress.formats.formats import FORMATS, find_format
from evopress.formats.shards import Entry, entry_bytes, frame_bytes, predicted_bytes, weight_bytes, write_shards
from evopress.formats.staging import is_whole
from evopress.formats.verification import Verification
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.steps.workspace import Workspace


def verified(format: Format, workspace: Workspace, profile: Profile, out: Path) -> Verification:
    """What the format's consumer makes of an export in `out`."""
    return format.verify(workspace.source, workspace.content(profile), out, workspace.searched(profile))


def entries(count: int) -> list[Entry]:
    """Tensors of all kinds, empty ones and scalars too."""
    kinds = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.int32, torch.float16, torch.bool)
    shapes: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 4), (7,), (11, 13))
    return [
        Entry(f"a.{i * 37 % 19}.é.{i}", kind, shape, lambda kind=kind, shape=shape: torch.zeros(shape, dtype=kind))  # type: ignore[misc]
        for i, (kind, shape) in enumerate((kinds[i % 7], shapes[i % 5]) for i in range(count))
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 64])
@pytest.mark.parametrize("largest", [2_000_000_000, 300])
def test_files_have_the_predicted_bytes(count: int, largest: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("evopress.formats.shards.SHARD_BYTES", largest)
    own = entries(count)
    write_shards(tmp_path, own, lambda done, total: None)
    assert weight_bytes(tmp_path) == predicted_bytes(own)
    assert weight_bytes(tmp_path) <= sum(map(entry_bytes, own)) + frame_bytes(sum(entry.nbytes for entry in own))


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    write_shards(tmp_path, entries(3), lambda done, total: None)
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_export_of_another_size_or_other_logits_is_an_error(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small)
    workspace = Workspace(read_run(run.directory.path), Observer())
    hf = type(FORMATS["hf"])
    with monkeypatch.context() as patch:
        patch.setattr(hf, "predicted_bytes", lambda *_: 1)
        with pytest.raises(VerificationError, match="predicted were 1"):
            pipeline.export(workspace)
    assert is_whole(run.directory.export)  # the one from before
    with monkeypatch.context() as patch:
        patch.setattr(hf, "verify", lambda *_: Verification("transformers", 0.5, 0.1))
        with pytest.raises(VerificationError, match=r"export is not the searched model: .* differ by 0\.5"):
            pipeline.export(workspace)
    assert not is_whole(run.directory.export)
    pipeline.export(workspace)
    searched = run.profile
    for name in searched.names[:1]:
        other = "2" if searched[name] != "2" else "3"
        wrong = evopress.Profile.of(dict(searched.items()) | {name: other})
    result = FORMATS["hf"].verify(
        workspace.source, workspace.content(searched), run.directory.export, workspace.searched(searched)
    )
    assert str(result).endswith("the logits are those of the searched model, bit for bit")
    assert (
        FORMATS["hf"]
        .verify(workspace.source, workspace.content(wrong), run.directory.export, workspace.searched(wrong))
        .failed
    )


def test_an_export_that_does_not_load_fails(small: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small)
    (run.directory.export / "model.safetensors").write_bytes(b"no")
    workspace, profile = Workspace(read_run(run.directory.path), Observer()), run.profile
    content, searched = workspace.content(profile), workspace.searched(profile)
    result = FORMATS["hf"].verify(workspace.source, content, run.directory.export, searched)
    assert result.failed
    assert "model.safetensors" in str(result) or "header" in str(result).lower()


def test_a_second_model_that_has_no_room_is_not_loaded(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evopress.quantize(out=tmp_path / "run", **small)
    workspace = Workspace(read_run(run.directory.path), Observer())
    monkeypatch.setattr(Workspace, "free_memory", 1000)
    result = FORMATS["hf"].verify(
        workspace.source, workspace.content(run.profile), run.directory.export, workspace.searched(run.profile)
    )
    assert str(result) == "not verified: a second model needs 143.5 kB of memory but 1.0 kB are free"
    assert not result.failed


def test_no_comparison_is_no_failure_but_says_why() -> None:
    assert not Verification("vllm", None, 0.1, "it is not installed").failed
    assert "it is not installed" in str(Verification("vllm", None, 0.1, "it is not installed"))


def test_unknown_formats_list_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'onnx'; known: hf"):
        find_format("onnx", ("bits",))
