"""Blocks that have to be brought: whoever runs one or reads its weights has asked for it, so nobody sees the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evopress.core.profile import Profile
from evopress.database.build import build_database
from evopress.database.methods import Quantization
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import Evaluator
from evopress.fitness.sensitivity import measure_sensitivity
from evopress.levels import Grid
from evopress.models import ModelMap, Runner, describe, measure_influence, weight
from evopress.models.assemble import Assembly, weight_slots
from evopress.models.blocks import asked_for, modules_of
from evopress.polish.kept import Kept
from evopress.testing import pico_model
from evopress.text.tokens import Tokens

IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 2, 1]])
TEXTS = [torch.arange(first, first + 24) for first in (1, 30, 60)]
ARCHITECTURES = ("llama", "gpt2", "gemma2", "falcon")


class Parked:
    """Blocks that are NaN in the model but for the one that was asked for last; `asked` are their numbers."""

    def __init__(self, model: nn.Module, map: ModelMap) -> None:
        self.modules, self.asked = modules_of(model, map), list[int]()
        self._places: list[list[Tensor]] = [[own.data for own in block.parameters()] for block in self.modules]
        self._kept = [[place.clone() for place in places] for places in self._places]
        for index in range(len(self)):
            self._take_away(index)

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, index: int, /) -> nn.Module:
        if self.asked:
            self._take_away(self.asked[-1])
        self.asked.append(index)
        for place, kept in zip(self._places[index], self._kept[index], strict=True):
            place.copy_(kept)
        return self.modules[index]

    def _take_away(self, index: int) -> None:
        for place in self._places[index]:
            place.fill_(torch.nan)


def resident(architecture: str) -> Runner:
    model = pico_model(architecture)
    return Runner(model, describe(model))


def parked(architecture: str) -> tuple[Runner, Parked]:
    model = pico_model(architecture)
    mapped = describe(model)
    blocks = Parked(model, mapped)
    return Runner(model, mapped, blocks), blocks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_runner_asks_for_each_block_once_in_a_pass(architecture: str) -> None:
    runner, blocks = parked(architecture)
    blocks.asked.clear()
    answer = runner.logits(runner.head_input(IDS))
    assert blocks.asked == list(range(len(blocks)))
    ours = resident(architecture)
    assert torch.equal(answer, ours.logits(ours.head_input(IDS)))


@torch.no_grad()
def test_beginning_asks_for_no_block() -> None:
    runner, blocks = parked("llama")
    blocks.asked.clear()
    hidden, contexts = runner.begin(IDS)
    assert blocks.asked == []
    runner.block(2, hidden, contexts)
    assert blocks.asked == [2]


@torch.no_grad()
def test_the_models_own_pass_asks_too() -> None:
    runner, blocks = parked("llama")
    blocks.asked.clear()
    with asked_for(blocks.modules, blocks):
        found = runner.model(IDS).logits
    assert blocks.asked == [0, 1, 2]
    assert torch.equal(found, pico_model("llama")(IDS).logits)


def test_a_weight_is_read_with_its_block() -> None:
    runner, blocks = parked("gpt2")
    dense = pico_model("gpt2")
    for linear in reversed(runner.map.linears):
        assert torch.equal(runner.weight(linear), weight(dense, linear.view))
        assert blocks.asked[-1] == linear.block
        kept = Kept(runner, {linear.name: linear}).load(linear.name, "keep").dequantize()
        torch.testing.assert_close(kept, weight(dense, linear.view), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_influence_is_the_same(architecture: str) -> None:
    assert measure_influence(parked(architecture)[0], TEXTS) == measure_influence(resident(architecture), TEXTS)


@pytest.mark.parametrize("name", ["gptq", "rtn"])
@pytest.mark.parametrize("propagate", ["dense", "3"])
def test_a_database_is_the_same(name: Any, propagate: str, tmp_path: Path) -> None:
    grids = {"3": Grid(3, 16), "4": Grid(4, 16)}
    method = Quantization(name=name, grids=grids, propagate=propagate, mismatch=0.5)
    for place, runner in (("resident", resident("llama")), ("parked", parked("llama")[0])):
        build_database(tmp_path / place, runner, method, TEXTS if method.needs_text else [], {})
    files = {path.name: path.read_bytes() for path in (tmp_path / "resident").iterdir() if path.suffix != ".lock"}
    assert len(files) > 1
    assert files == {name: (tmp_path / "parked" / name).read_bytes() for name in files}


def evaluator(runner: Runner) -> Evaluator:
    """Levels of noise, those of the dense model's weights."""
    dense = pico_model("llama")
    views = {linear.name: linear.view for linear in runner.map.linears}

    def load(unit: str, level: str, dtype: torch.dtype) -> Tensor:
        noise = torch.Generator().manual_seed(len(unit) + int(level))
        own = weight(dense, views[unit])
        return own + torch.randn(own.shape, generator=noise) * 0.2 / int(level)

    assembly = Assembly(weight_slots(runner.model, runner.map, load))
    return Evaluator(runner, assembly, Tokens.of(TEXTS, "numbers"), (KL(),), batch_tokens=48)


PROFILE = Profile.of({linear.name: "234"[i % 3] for i, linear in enumerate(describe(pico_model("llama")).linears)})


def test_scores_are_the_same() -> None:
    first, second = (
        evaluator(runner).evaluate_all([None, PROFILE]).sums for runner in (resident("llama"), parked("llama")[0])
    )
    assert bool(first[1].isfinite().all())
    assert torch.equal(first, second)


def test_sensitivities_are_the_same() -> None:
    levels = dict.fromkeys(PROFILE.names, ("2", "3", "4"))
    first, second = (
        measure_sensitivity(evaluator(runner), PROFILE, levels, 48)
        for runner in (resident("llama"), parked("llama")[0])
    )
    assert first == second
