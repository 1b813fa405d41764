"""What the card of a run's export says is true: levels, scores, sizes, and a command with the same configuration."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import evopress
from evopress import pipeline
from evopress.cli import app
from evopress.core.profile import Profile
from evopress.formats.shards import weight_bytes
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.settings.config import Config, differences
from evopress.steps.cards import make_grid
from evopress.steps.workspace import Workspace

APPLICATIONS: dict[str, dict[str, Any]] = {
    "quantize": {"bits": 3, "levels": (2, 3, 4), "group_size": 16},
    "sparsify": {"sparsity": 0.5},
    "drop": {"fraction": 0.4, "granularity": "sublayer"},
}


def run_of(command: str, small_other: dict[str, Any], out: Path) -> evopress.Run:
    run: evopress.Run = getattr(evopress, command)(out=out, **small_other, **APPLICATIONS[command])
    return run


@pytest.mark.parametrize("command", APPLICATIONS)
def test_a_card_says_what_the_run_found(
    command: str, small_other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(command, small_other, tmp_path / "run")
    text = (run.directory.export / "README.md").read_text()
    assert ModelCard(text).data.tags[0] == "evopress"
    assert ", so that the model's answers change least under one budget.\n" in text
    for name, row in run.evaluation["profiles"].items():
        assert f"| {name} | {row['perplexity']:.2f} | {row['kl']:.4f} |" in text
    assert f"the weights take {weight_bytes(run.directory.export):,} bytes" in text
    grid = make_grid(Workspace(run.directory, Observer()), run.profile)
    found = [level for row in grid.rows.values() for level in row]
    assert len(found) == len(run.profile)
    if command != "sparsify":
        assert sorted(found) == sorted(run.profile.levels)
    for block, *levels in zip(grid.blocks, *grid.rows.values(), strict=True):
        assert f"| {block} | {' | '.join(levels)} |" in text
    assert (run.directory.export / "profile.svg").read_text().count("<title>") == len(run.profile) + 1

    asked: list[Config] = []
    monkeypatch.setattr("evopress.pipeline.run_all", lambda config, *_, **__: asked.append(config) or run)
    [line] = re.findall(r"```\n(evopress .*)\n```", text)
    app.app(shlex.split(line)[1:], standalone_mode=False)
    assert differences(asked[0], run.directory.config) == []


def test_levels_of_sparsity_are_shares_from_the_sparsest_to_the_densest(
    small_other: dict[str, Any], tmp_path: Path
) -> None:
    run = run_of("sparsify", small_other, tmp_path / "run")
    workspace = Workspace(run.directory, Observer())
    grid = make_grid(workspace, run.profile)
    shares = [float(level.rstrip("%")) for level in grid.order]
    assert shares == sorted(shares, reverse=True)
    entry = workspace.database.manifest.units["model.layers.1.mlp.up_proj"]
    zeros = entry.level(run.profile[entry.name]).zeros
    assert grid.rows["mlp.up_proj"][1] == f"{100 * zeros / entry.size:.1f}%"


def test_pairs_have_the_numbers_of_both_blocks(small_other: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.drop(out=tmp_path / "run", **small_other, fraction=0.5, granularity="pair")
    text = (run.directory.export / "README.md").read_text()
    assert re.search(r"\| block \| attn\+mlp \|\n\|---\|---:\|\n\| 0-1 \| (keep|drop) \|\n\| 2 \| (keep|drop) \|", text)


def test_another_profile_has_no_scores_of_the_searched_one(
    small_other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("quantize", small_other, tmp_path / "run")
    workspace = Workspace(read_run(run.directory.path), Observer())
    before = (run.directory.export / "README.md").read_bytes()
    said: list[str] = []
    monkeypatch.setattr(workspace.observer, "note", said.append)
    pipeline.export(workspace, verify=False)
    assert [line for line in said if line.startswith("The weights are dequantized: the files are as large")]
    assert (run.directory.export / "README.md").read_bytes() == before
    (tmp_path / "other.txt").write_text(Profile.of(dict.fromkeys(run.profile.names, "2")).to_text())
    pipeline.export(workspace, tmp_path / "other", tmp_path / "other.txt", verify=False)
    text = (tmp_path / "other" / "README.md").read_text()
    assert "## Scores" not in text
    assert "- Search: none; the profile was given" in text
    assert 'from_pretrained("other")' in text
