"""benchmarks/peers.py: what a tool hands back is checked and scored like a level of evopress, and no row made twice."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import pytest
import torch

from evopress.core.profile import Profile
from evopress.models import describe
from evopress.pipeline import build
from evopress.run.directory import start_run
from evopress.run.observer import Observer
from evopress.settings.resolve import resolve
from evopress.steps.scoring import HeldOut, score
from evopress.steps.workspace import Workspace
from evopress.testing import pico_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    yield peers
    del sys.modules["peers"], sys.modules["peers_rows"], sys.modules["run_settings"]


def in_this_process(words: list[str], stdout: TextIO, **_: Any) -> subprocess.CompletedProcess[str]:
    """What another process does, without its seconds of imports; the environment `env-hqq` cannot do it."""
    if "env-hqq" in words[0]:
        stdout.write("no module named hqq\n\n")
        return subprocess.CompletedProcess(words, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
    return subprocess.CompletedProcess(words, 0)


def test_a_row_has_the_scores_of_the_level_and_is_not_made_twice(
    peers: ModuleType,
    checkpoint: Path,
    small_other: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = json.loads(json.dumps({name: value for name, value in small_other.items() if name != "model"}))
    given = task | {"group_size": 16, "act_order": True}
    rows = tmp_path / "rows.jsonl"
    words = ["peers.py", str(tmp_path / "peers"), "--model", str(checkpoint), "--rows", str(rows), "--bits", "3"]
    words += ["--set", *(f"{name}={json.dumps(value)}" for name, value in given.items())]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "evopress", "rtn", "hqq"])
    monkeypatch.setattr(subprocess, "run", in_this_process)
    peers.main()
    hqq, rtn, ours = map(json.loads, rows.read_text().splitlines())
    assert hqq["failed"] == "no module named hqq"
    assert (rtn["settings"], ours["settings"]) == ({**task, "group_size": 16}, given)
    assert (rtn["compression"]["method"], ours["compression"]["method"]) == ("rtn", "gptq")
    config = resolve(str(checkpoint), bits=3, levels=(3,), **given)
    workspace = Workspace(start_run(tmp_path / "run", config), Observer())
    build(workspace)
    uniform = Profile.of(dict.fromkeys(workspace.database.manifest.units, "3"))
    wanted = score(workspace, {"dense": None, "uniform": uniform}, HeldOut()).rows
    assert (ours["kl"], ours["perplexity"]) == (wanted["uniform"]["kl"], wanted["uniform"]["perplexity"])
    assert ours["dense_perplexity"] == wanted["dense"]["perplexity"]
    capsys.readouterr()
    peers.main()
    [*first, again] = map(json.loads, rows.read_text().splitlines())
    assert (first, again) == ([hqq, rtn, ours], hqq)
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in table if line.startswith("| 3 |")] == [
        "evopress (act_order=True)", "rtn", "hqq",
    ]  # fmt: skip
    assert table[-1] == "| 3 | hqq | failed: no module named hqq | | |"


def test_what_is_off_the_grid_or_was_to_stay_is_refused(peers: ModuleType) -> None:
    model = pico_model("llama", blocks=2)
    map = describe(model)
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    signs = {linear.view.parameter: parameters[linear.view.parameter].sign() for linear in map.linears}
    norm, embedding = "model.layers.1.input_layernorm.weight", "model.embed_tokens.weight"
    assert peers.check(model, map, parameters | signs, 1, 16, folds=False) == []
    scaled = {norm: parameters[norm] * 2}
    assert peers.check(model, map, parameters | signs | scaled, 1, 16, folds=True) == [norm]
    for change, folds, problem in (
        (scaled, False, f"{norm} was to stay"),
        ({embedding: parameters[embedding] * 2}, True, f"{embedding} was to stay"),
        ({"model.layers.0.mlp.up_proj.weight": parameters["model.layers.0.mlp.up_proj.weight"]}, True, "no 1 bits"),
    ):
        with pytest.raises(peers.BadPeer, match=problem):
            peers.check(model, map, parameters | signs | change, 1, 16, folds=folds)
    with pytest.raises(peers.BadPeer, match="no lm_head"):
        peers.check(model, map, signs, 1, 16, folds=False)
    assert peers.most_values(torch.tensor([[1.0, 2, 1, 3, 3, 3], [1, 1, 1, 1, 2, 3]]), 3) == 3
