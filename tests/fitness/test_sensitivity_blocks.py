"""Sensitivities of dropping: against the whole stock model in float64, whose one block's output is moved by hand."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from evopress.core.profile import Profile, Unit
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import Evaluator
from evopress.fitness.sensitivity import Sensitivity, measure_sensitivity
from evopress.models import Runner, bypass_slots, describe, find_sublayers
from evopress.models.assemble import Assembly
from evopress.models.bypass import dropped
from evopress.models.depth import depth_units
from evopress.testing import pico_model
from evopress.text.tokens import Tokens

torch.set_num_threads(1)

TOKENS, STEP = 96, 1e-3


def make(architecture: str, granularity: Any = "sublayer") -> tuple[Evaluator, tuple[Unit, ...]]:
    model = pico_model(architecture)
    mapped = describe(model)
    sublayers = find_sublayers(model, mapped)
    rng = torch.Generator().manual_seed(0)
    text = Tokens.of([torch.randint(0, 96, (12,), generator=rng) for _ in range(9)], "noise")
    assembly = Assembly(bypass_slots(model, sublayers, granularity))
    units = depth_units(sublayers, granularity, protected=[sublayers[-1].name] if granularity == "sublayer" else ())
    return Evaluator(Runner(model, mapped), assembly, text, (KL(),), batch_tokens=36), units


def measure(evaluator: Evaluator, units: tuple[Unit, ...], gone: int) -> Sensitivity:
    """With unit number `gone` dropped."""
    profile = Profile.of({unit.name: "drop" if at == gone else "keep" for at, unit in enumerate(units)})
    levels = {unit.name: [level.name for level in unit.levels] for unit in units}
    with evaluator.assembly:
        return measure_sensitivity(evaluator, profile, levels, TOKENS, by="blocks", seed=3)


class Reference:
    """The stock model in float64 that lacks some sub-layers, and what its answers say when a block's output moves."""

    def __init__(self, evaluator: Evaluator, gone: str) -> None:
        pieces = evaluator.text.minibatch(TOKENS, random.Random("3/sensitivity"))
        self.ids = torch.stack([evaluator.text.sequences[piece.sequence][: piece.length] for piece in pieces])
        self.model = copy.deepcopy(evaluator.runner.model).double()
        self.map = describe(self.model)
        self.sublayers = {sublayer.name: sublayer for sublayer in find_sublayers(self.model, self.map)}
        self.gone = {gone}
        with torch.no_grad():
            self.teacher = self.model(self.ids).logits.log_softmax(-1)

    @contextmanager
    def without(self, *more: str) -> Iterator[None]:
        """All that are gone, those of `more` switched."""
        with dropped(self.model, [self.sublayers[name] for name in self.gone ^ set(more)]):
            yield

    def answers(self, block: int, move: Tensor | float, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Log-probabilities when the block's output is moved; `seen` gets that output."""

        def hook(module: Any, args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, Tensor) else output[0]
            hidden = (hidden + move).requires_grad_() if not hidden.requires_grad else hidden + move
            if seen is not None:
                seen["output"] = hidden
            return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

        with self.model.get_submodule(f"{self.map.blocks}.{block}").register_forward_hook(hook):
            return self.model(self.ids).logits.log_softmax(-1)  # type: ignore[no-any-return]

    def change(self, unit: str, block: int) -> Tensor:
        """What the block's output moves by when the unit is switched."""
        outputs = []
        for switched in ([unit], []):
            seen: dict[str, Tensor] = {}
            with self.without(*switched), torch.no_grad():
                self.answers(block, 0.0, seen)
            outputs.append(seen["output"].detach())
        return outputs[0] - outputs[1]

    def slope(self, unit: str, block: int) -> float:
        """Central difference of the KL along that move."""
        change, total = self.change(unit, block), 0.0
        with self.without(), torch.no_grad():
            for sign in (1, -1):
                student = self.answers(block, sign * STEP * change)
                total += sign * float((self.teacher.exp() * (self.teacher - student)).sum()) / TOKENS
        return total / (2 * STEP)

    def curvature(self, unit: str, block: int) -> float:
        """Half the mean square of delta' . move."""
        change, seen = self.change(unit, block), dict[str, Tensor]()
        with self.without():
            q = self.answers(block, 0.0, seen).flatten(0, 1)
        draws = torch.rand(TOKENS, 1, generator=torch.Generator().manual_seed(3))
        labels = (q.exp().cumsum(-1) <= draws.double()).sum(-1)
        (delta,) = torch.autograd.grad(-q[torch.arange(TOKENS), labels].sum(), seen["output"])
        return float((delta * change).sum(-1).square().mean() / 2)


@pytest.mark.parametrize("architecture", ["llama", "falcon", "gemma2"])
def test_slopes_and_curvatures_are_those_of_the_whole_model(architecture: str) -> None:
    """Plain, parallel and sandwiched sub-layers; one unit is dropped, so its effect is that of its return."""
    evaluator, units = make(architecture)
    found = measure(evaluator, units, gone=1)
    reference = Reference(evaluator, units[1].name)
    for unit in units[:4]:
        other = "keep" if unit is units[1] else "drop"
        assert found.slope[unit.name][other] == pytest.approx(reference.slope(unit.name, unit.block), rel=5e-3)
        assert found.curvature[unit.name][other] == pytest.approx(reference.curvature(unit.name, unit.block), rel=5e-3)


def test_what_cannot_be_dropped_has_no_effect_and_the_cost_counts_every_pass() -> None:
    evaluator, units = make("llama")
    found = measure(evaluator, units, gone=1)
    assert found.slope[units[-1].name] == {"keep": 0.0}
    assert found.passes == 5 + 2
    assert found.cost == TOKENS * 7
    assert Sensitivity.from_json(found.to_json()) == found


@pytest.mark.parametrize("granularity", ["block", "pair"])
def test_coarser_units_are_measured_too(granularity: str) -> None:
    evaluator, units = make("llama", granularity)
    found = measure(evaluator, units, gone=0)
    assert set(found.slope) == {unit.name for unit in units}
    assert all(found.curvature[unit.name]["keep" if at == 0 else "drop"] > 0 for at, unit in enumerate(units))
    assert found.passes == 6


def test_the_least_missed_unit_is_found_near_the_dense_model() -> None:
    """At the dense model slopes vanish, and curvatures order single drops like the true KL."""
    evaluator, units = make("llama")
    profile = Profile.of({unit.name: "keep" for unit in units})
    levels = {unit.name: [level.name for level in unit.levels] for unit in units}
    droppable = [unit.name for unit in units if len(unit.levels) > 1]
    with evaluator.assembly:
        found = measure_sensitivity(evaluator, profile, levels, TOKENS, by="blocks")
        children = [Profile.of({**dict(profile.items()), name: "drop"}) for name in droppable]
        true = evaluator.evaluate_all(children).scores()
    assert max(abs(found.slope[name]["drop"]) for name in droppable) < 1e-6
    predicted = [found.curvature[name]["drop"] for name in droppable]
    assert torch.corrcoef(torch.tensor([predicted, true]))[0, 1] > 0.8
