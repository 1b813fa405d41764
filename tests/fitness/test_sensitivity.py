"""Sensitivities against slow float64 references: central differences, and autograd through the whole stock model."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evopress.core.profile import Profile
from evopress.errors import NotEnoughTokens
from evopress.fitness.divergence import KL
from evopress.fitness.evaluator import Evaluator
from evopress.fitness.sensitivity import Sensitivity, measure_sensitivity
from evopress.models import Runner, describe
from evopress.models.assemble import Assembly, weight_slots
from evopress.models.ends import with_ends
from evopress.testing import ARCHITECTURES, pico_model, randomize
from evopress.text.tokens import Tokens

torch.set_num_threads(1)

LEVELS = ("2", "3", "4")
TOKENS = 96
WITH_TRAITS = ("llama", "gpt2", "falcon", "gemma2", "granite", "opt")
"""Plain, transposed weights, in-place sums, soft-capped logits, scaled logits, and a tail of two modules."""

Load = Callable[[str, str, torch.dtype], Tensor]


def shaken(model: Any) -> Load:
    """Fake levels: the dense weights with noise that depends on unit and level."""
    mapped = with_ends(model, describe(model))
    dense = {linear.name: model.get_parameter(linear.view.parameter).data for linear in mapped.linears}

    def load(unit: str, level: str, dtype: torch.dtype) -> Tensor:
        noise = torch.Generator().manual_seed(sum(map(ord, unit)) * 10 + int(level))
        weight = dense[unit]
        return (weight + torch.randn(weight.shape, generator=noise) * 0.2 / int(level)).to(dtype)

    return load


def make(architecture: str | Any, load: Load | None = None, batch_tokens: int = 36, ends: bool = False) -> Evaluator:
    model = pico_model(architecture) if isinstance(architecture, str) else architecture
    mapped = with_ends(model, describe(model)) if ends else describe(model)
    rng = torch.Generator().manual_seed(0)
    text = Tokens.of([torch.randint(0, 96, (12,), generator=rng) for _ in range(9)], "noise")
    assembly = Assembly(weight_slots(model, mapped, load or shaken(model)))
    return Evaluator(Runner(model, mapped), assembly, text, (KL(),), batch_tokens=batch_tokens)


def parent_of(evaluator: Evaluator) -> Profile:
    rng = random.Random(1)
    return Profile.of({linear.name: rng.choice(LEVELS) for linear in evaluator.runner.map.linears})


def measure(evaluator: Evaluator, seed: int = 0, tokens: int = TOKENS) -> Sensitivity:
    profile = parent_of(evaluator)
    with evaluator.assembly:
        return measure_sensitivity(evaluator, profile, dict.fromkeys(profile.names, LEVELS), tokens, seed=seed)


class Pair(nn.Linear):
    """A linear that returns something beside its product, as routers do."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class OddMLP(nn.Module):
    """All that a linear of a block can be: called twice, one of a pair, or outside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.twice = Pair(48, 48, bias=False), nn.Linear(48, 48, bias=False)
        self.choose, self.down = nn.Linear(48, 48, bias=False), nn.Linear(48, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (self.choose(x) > 0).to(x)
        hidden: Tensor = self.down(self.twice(self.twice(self.pair(x)[0]).tanh()) * chosen)
        return hidden


class Reference:
    """The stock model in float64 with the parent's weights, the text that was drawn, and all of its derivatives."""

    def __init__(self, evaluator: Evaluator, seed: int = 0) -> None:
        self.load, self.map = evaluator.assembly.tensor, evaluator.runner.map
        self.parent, self.seed = parent_of(evaluator), seed
        pieces = evaluator.text.minibatch(TOKENS, random.Random(f"{seed}/sensitivity"))
        self.ids = torch.stack([evaluator.text.sequences[piece.sequence][: piece.length] for piece in pieces])
        dense = copy.deepcopy(evaluator.runner.model).double()
        with torch.no_grad():
            self.teacher = dense(self.ids).logits.log_softmax(-1)
        self.model = dense
        self.parameters = {linear.name: dense.get_parameter(linear.view.parameter) for linear in self.map.linears}
        for name, parameter in self.parameters.items():
            parameter.data = self.load(name, self.parent[name]).double()

    def change(self, name: str, level: str) -> Tensor:
        own, other = (self.load(name, which) for which in (self.parent[name], level))
        return (other - own).double()

    def kl(self) -> Tensor:
        student = self.model(self.ids).logits.log_softmax(-1)
        return (self.teacher.exp() * (self.teacher - student)).sum() / TOKENS

    @torch.no_grad()
    def slope(self, name: str, level: str, step: float) -> float:
        """Central differences of fourth order."""
        parameter, change = self.parameters[name], self.change(name, level)
        before, total = parameter.data, 0.0
        for distance, factor in ((1, 8), (2, -1)):
            for sign in (1, -1):
                parameter.data = before + sign * distance * step * change
                total += sign * factor * float(self.kl())
        parameter.data = before
        return total / (12 * step)

    def curvature(self, name: str, level: str) -> float:
        """Half the mean square of delta' . dW x, with the gradient taken with respect to the linear's output."""
        seen: dict[str, Tensor] = {}

        def keep(module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
            seen["input"], seen["output"] = args[0].detach(), output
            return output.clone()  # so that a block that works in place leaves `output` alone

        with self.model.get_submodule(name).register_forward_hook(keep):
            q = self.model(self.ids).logits.log_softmax(-1).flatten(0, 1)
        draws = torch.rand(TOKENS, 1, generator=torch.Generator().manual_seed(self.seed))
        labels = (q.exp().cumsum(-1) <= draws.double()).sum(-1)
        (delta,) = torch.autograd.grad(-q[torch.arange(TOKENS), labels].sum(), seen["output"])
        change = self.change(name, level)
        if not seen["input"].is_floating_point():
            moved = change[seen["input"]]
        else:
            moved = seen["input"] @ (change if self.transposed(name) else change.T)
        return float((delta * moved).sum(-1).square().mean() / 2)

    def transposed(self, name: str) -> bool:
        return next(linear.view.transposed for linear in self.map.linears if linear.name == name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_slopes_are_central_differences_of_the_kl(architecture: str) -> None:
    evaluator = make(architecture)
    found, reference = measure(evaluator), Reference(evaluator)
    step = 1e-6 if architecture == "opt" else 0.01  # ReLU has kinks; norms in fp32, elsewhere, forbid a small step
    for name in [linear.name for linear in evaluator.runner.map.linears][::3]:
        for level in LEVELS:
            assert found.slope[name][level] == pytest.approx(reference.slope(name, level, step), rel=2e-3, abs=2e-6)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma2"])
def test_slopes_of_embedding_and_head_are_central_differences_too(architecture: str) -> None:
    """Not on Gemma 2, where logits move along its soft cap: we take how far they move, not how fast they start."""
    evaluator = make(architecture, ends=True)
    found, reference = measure(evaluator), Reference(evaluator)
    ends = [linear.name for linear in evaluator.runner.map.linears if not 0 <= linear.block < 3]
    assert ends
    for name in ends:
        for level in LEVELS:
            expected = reference.slope(name, level, 1e-6 if architecture == "opt" else 0.01)
            assert found.slope[name][level] == pytest.approx(expected, rel=2e-3, abs=2e-6)
            assert (found.curvature[name][level] > 0) == (level != found.profile[name])


@pytest.mark.parametrize("unit", ["model.embed_tokens", "lm_head"])
def test_curvatures_of_embedding_and_head_are_those_of_autograd(unit: str) -> None:
    evaluator = make("llama", ends=True)
    found, reference = measure(evaluator, seed=3), Reference(evaluator, seed=3)
    for level in LEVELS:
        expected = reference.curvature(unit, level)
        assert found.curvature[unit][level] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("architecture", WITH_TRAITS)
def test_curvatures_are_those_of_autograd_through_the_whole_model(architecture: str) -> None:
    evaluator = make(architecture)
    found, reference = measure(evaluator, seed=3), Reference(evaluator, seed=3)
    for name in [linear.name for linear in evaluator.runner.map.linears][1::2]:
        for level in LEVELS:
            assert found.curvature[name][level] == pytest.approx(reference.curvature(name, level), rel=2e-3)


def test_a_weights_gradient_gives_the_same_slopes() -> None:
    """The sum of delta_t x_t^T is the weight's gradient, and the slope its product with dW."""
    evaluator = make("llama")
    found, reference = measure(evaluator), Reference(evaluator)
    gradients = torch.autograd.grad(reference.kl(), list(reference.parameters.values()))
    for name, gradient in zip(reference.parameters, gradients, strict=True):
        for level in LEVELS:
            slope = float((gradient * reference.change(name, level)).sum())
            assert found.slope[name][level] == pytest.approx(slope, rel=2e-3, abs=2e-6)


def test_linears_called_twice_returning_pairs_and_outside_the_graph() -> None:
    """Slopes against the gradients of the weights; what only chooses has none, and hides nothing of the others."""
    model = pico_model("llama")
    model.model.layers[1].mlp = randomize(OddMLP())
    evaluator = make(model)
    found, reference = measure(evaluator), Reference(evaluator)
    names = list(reference.parameters)
    gradients = torch.autograd.grad(reference.kl(), list(reference.parameters.values()), allow_unused=True)
    chooses = "model.layers.1.mlp.choose"
    assert [name for name, gradient in zip(names, gradients, strict=True) if gradient is None] == [chooses]
    assert {"model.layers.1.mlp.pair", "model.layers.1.mlp.twice"} <= set(names)
    for name, gradient in zip(names, gradients, strict=True):
        for level in LEVELS:
            slope = 0.0 if gradient is None else float((gradient * reference.change(name, level)).sum())
            assert found.slope[name][level] == pytest.approx(slope, rel=2e-3, abs=2e-6)
    for level in LEVELS:
        expected = reference.curvature("model.layers.1.mlp.down", level)
        assert found.curvature["model.layers.1.mlp.down"][level] == pytest.approx(expected, rel=2e-3)
        assert found.curvature[chooses][level] == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_measured_in_full(architecture: str) -> None:
    evaluator = make(architecture)
    found = measure(evaluator)
    assert list(found.slope) == list(found.curvature) == [linear.name for linear in evaluator.runner.map.linears]
    for name, own in found.profile.items():
        assert found.slope[name][own] == found.curvature[name][own] == 0
        for level in set(LEVELS) - {own}:
            assert found.slope[name][level] != 0
            assert found.curvature[name][level] > 0


def test_the_expansion_predicts_small_changes_near_the_teacher() -> None:
    """Where the parent is the teacher the slope is 0 and the curvature is the whole change."""
    model = pico_model("llama")
    dense = {linear.name: model.get_parameter(linear.view.parameter).data for linear in describe(model).linears}
    noise = shaken(model)

    def load(unit: str, level: str, dtype: torch.dtype) -> Tensor:
        return dense[unit] if level == "4" else dense[unit] + 0.2 * (noise(unit, level, dtype) - dense[unit])

    evaluator = make("llama", load)
    names = list(dense)
    parent = Profile.of(dict.fromkeys(names, "4"))
    children = [Profile.of({**dict(parent.items()), name: "2"}) for name in names]
    with evaluator.assembly:
        found = measure_sensitivity(evaluator, parent, dict.fromkeys(names, LEVELS), 108)
        true = evaluator.evaluate_all(children).scores()
    assert max(abs(found.slope[name]["2"]) for name in names) < 1e-7
    predicted = torch.tensor([found.curvature[name]["2"] for name in names])
    assert torch.corrcoef(torch.stack([predicted, torch.tensor(true)]))[0, 1] > 0.9
    assert 0.7 < predicted.sum() / sum(true) < 1.3


def test_levels_that_change_nothing_have_no_sensitivity() -> None:
    noise = shaken(pico_model("llama"))

    def load(unit: str, level: str, dtype: torch.dtype) -> Tensor:
        return noise(unit, "3" if "down_proj" in unit else level, dtype)

    found = measure(make("llama", load))
    for name, levels in found.curvature.items():
        assert ("down_proj" in name) == (set(levels.values()) | set(found.slope[name].values()) == {0.0})


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again, other = (measure(make("llama"), seed) for seed in (0, 0, 1))
    assert first == again
    assert first.curvature != other.curvature


def test_batches_do_not_matter() -> None:
    together, single = measure(make("llama", batch_tokens=96)), measure(make("llama", batch_tokens=12))
    for name in together.slope:
        assert together.slope[name] == pytest.approx(single.slope[name], rel=1e-3, abs=1e-6)
        assert together.curvature[name] == pytest.approx(single.curvature[name], rel=1e-3)


def test_an_evaluator_that_has_scored_can_still_measure() -> None:
    evaluator = make("llama")
    with evaluator.assembly:
        before = evaluator([parent_of(evaluator)], 48)
        assert measure(evaluator) == measure(make("llama"))
        evaluator.calls = 0
        assert evaluator([parent_of(evaluator)], 48) == before


def test_bf16_agrees_roughly_with_fp32() -> None:
    exact = measure(make("llama"))
    model = pico_model("llama").to(torch.bfloat16)
    evaluator = make("llama")

    def load(unit: str, level: str, dtype: torch.dtype) -> Tensor:
        return evaluator.assembly.tensor(unit, level).to(dtype)

    rounded = Evaluator(
        Runner(model, describe(model)),
        Assembly(weight_slots(model, describe(model), load)),
        evaluator.text,
        (KL(),),
        batch_tokens=36,
    )
    found = measure(rounded)
    ours, theirs = ([table[name][level] for name in table for level in LEVELS] for table in (found.slope, exact.slope))
    assert torch.corrcoef(torch.tensor([ours, theirs]))[0, 1] > 0.99


def test_json_gives_back_an_equal_object() -> None:
    found = measure(make("llama"), tokens=24)
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_cost_counts_every_pass() -> None:
    found = measure(make("llama"), tokens=24)
    assert found.cost == 24 * (1 + 1 + 1 + 2 + 2)


def test_more_tokens_than_there_are() -> None:
    with pytest.raises(NotEnoughTokens, match="asked for 200 tokens but noise has 108"):
        measure(make("llama"), tokens=200)


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[float] = []
    evaluator = make("llama")
    profile = parent_of(evaluator)
    with evaluator.assembly:
        measure_sensitivity(
            evaluator,
            profile,
            dict.fromkeys(profile.names, LEVELS),
            24,
            progress=lambda done, total: seen.append(done / total),
        )
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)
    assert len(seen) == 2 * 3 + 1
