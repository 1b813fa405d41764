"""Depth with everything on: masks of scores and measured ones compete, all counts, and a resume gives equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import evopress
from evopress.fitness.divergence import KL
from evopress.run.directory import read_run
from evopress.run.observer import Observer
from evopress.search.baselines.shortened_llama import ShortenedLlama
from evopress.search.types import BatchResult
from evopress.steps.strategies import warm_up
from evopress.steps.workspace import Workspace
from evopress.testing import write_pico_checkpoint

BLOCKS = 6


class Batches(Observer):
    """Remembers the batches, the tokens and the notes."""

    def __init__(self) -> None:
        self.seen: list[BatchResult] = []
        self.tokens: list[int] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def batch(self, result: BatchResult, space: object, tokens: int) -> None:
        self.seen.append(result)
        self.tokens.append(tokens)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, Any]:
    model = tmp_path_factory.mktemp("model")
    write_pico_checkpoint(model, "llama", blocks=BLOCKS)
    tokens = {"sequence_length": 16, "search_tokens": 512, "heldout_tokens": 128, "sensitivity_tokens": (32, 64)}
    stages = {"offspring": 4, "survivors": (2, 1), "tokens_per_stage": (32, 64), "start_tokens": 32, "generations": 5}
    tokens |= {"polish": "none"}
    return {"model": str(model), "data": str(text), "fraction": 0.34, "race": True, **tokens, **stages}


def test_masks_of_scores_and_of_sensitivities_are_the_first_candidates(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    run = evopress.drop(out=tmp_path / "run", observer=(watch := Batches()), **settings)
    starts = watch.seen[0].batch
    assert starts.generation == 0
    assert len(starts.profiles) >= 2
    shortgpt = starts.profiles[0]
    assert [level == "drop" for level in shortgpt.levels].count(True) == 4
    assert run.directory.sensitivity(1).exists()
    rounds = (32 + 64) * (5 + 2)
    between = watch.tokens[0] - rounds - 512 - len(starts.profiles) * starts.tokens  # 512: the influence of blocks
    assert between > 0
    assert between % starts.tokens == 0
    assert "auto: start sensitivity, mutation adaptive, preselect 8" in watch.notes


def test_shortened_llama_proposes_a_mask_that_is_counted(settings: dict[str, Any], tmp_path: Path) -> None:
    run = evopress.drop(out=tmp_path / "run", observer=(watch := Batches()), **settings)
    workspace = Workspace(read_run(run.directory.path), Observer())
    warmup = warm_up(workspace, 0)
    strategy = ShortenedLlama(workspace.space, BLOCKS, tokens=32)
    with workspace.evaluator(workspace.splits.search, (KL(),), BLOCKS) as evaluator:
        evaluator.calls = -len(settings["sensitivity_tokens"])
        strategy.tell(evaluator(strategy.ask().profiles, 32))
    assert warmup.proposed == (strategy.best,)
    assert warmup.best[0] == (512 + BLOCKS * 32, strategy.best)
    assert strategy.best in watch.seen[0].batch.profiles


def test_a_resumed_search_gives_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    def go() -> bytes:
        return evopress.drop(out=tmp_path / "run", **settings).directory.journal.read_bytes()

    whole = go()
    assert '"part"' in whole.decode()
    lines = whole.splitlines(keepends=True)
    for kept in (1, len(lines) // 2):
        (tmp_path / "run" / "journal.jsonl").write_bytes(b"".join(lines[:kept]))
        for name in ("profile.json", "evaluation.json"):
            (tmp_path / "run" / name).unlink()
        assert go() == whole


@pytest.mark.parametrize("start", ["uniform", "knapsack", "coarse"])
def test_other_starts_measure_no_sensitivities(settings: dict[str, Any], tmp_path: Path, start: str) -> None:
    options = settings | {"start": start, "start_candidates": 3, "generations": 1}
    run = evopress.drop(out=tmp_path / "run", observer=(watch := Batches()), **options)
    assert not run.directory.sensitivity(0).exists()
    starts = watch.seen[0].batch.profiles
    assert (len(starts) > 3) == (start != "uniform")
    influence = 0 if start == "uniform" else 512
    assert watch.tokens[0] == influence + len(starts) * 32
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["fitness"]["tokens"] == watch.tokens[-1]
