"""Dropped experts: the router chooses among the others as if the logits of these were minus infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evopress.core.profile import DROP, KEEP
from evopress.errors import UnsupportedModel
from evopress.models import Runner, describe, load_model
from evopress.models.assemble import Assembly
from evopress.models.routing import ExpertSwitch, expert_slots, find_routed
from evopress.models.saliency import measure_saliency

Mixture = Callable[[str], str]
GONE = {0: [1], 1: [0], 2: [3], 3: [2]}  # block -> numbers of the experts that are dropped


def opened(source: str) -> tuple[Any, Any]:
    model = load_model(source, dtype=torch.float32).model
    return model, describe(model)


def minus_infinity(gate: Any, gone: list[int], normalized: bool) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A router's forward with the logits of some experts at minus infinity."""

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), gate.weight)
        logits[:, gone] = float("-inf")
        weights, chosen = torch.softmax(logits, -1).topk(gate.top_k, -1)
        return logits, weights / weights.sum(-1, keepdim=True) if normalized else weights, chosen

    return forward


@pytest.mark.parametrize(("model_type", "normalized"), [("mixtral", True), ("qwen2_moe", False)])
def test_the_router_chooses_among_those_that_stay(
    model_type: str, normalized: bool, mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mapped = opened(mixture(model_type))
    ids = torch.arange(20, 52).view(2, 16)
    layers = find_routed(model, mapped)
    assert [(layer.count, layer.chosen, list(layer.rows)) for layer in layers] == [
        (4, 2, [f"model.layers.{block}.mlp.gate.weight"]) for block in range(4)
    ]
    with torch.no_grad():
        dense = model(ids).logits
        with Assembly(expert_slots(model, layers, mapped.n_blocks)) as assembly:
            for block, numbers in GONE.items():
                assembly.use(block, tuple(DROP if number in numbers else KEEP for number in range(4)))
            found = model(ids).logits
        assert torch.equal(model(ids).logits, dense)
        for block, numbers in GONE.items():
            gate = model.model.layers[block].mlp.gate
            monkeypatch.setattr(gate, "forward", minus_infinity(gate, numbers, normalized))
        expected = model(ids).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(found, dense, atol=1e-3)


def test_a_router_is_cut_once_for_all_experts_of_a_switch(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    model, mapped = opened(mixture("mixtral"))
    cuts: list[set[int]] = []
    monkeypatch.setattr(ExpertSwitch, "cut", lambda self: cuts.append(set(self.dropped)))
    assembly = Assembly(expert_slots(model, find_routed(model, mapped), mapped.n_blocks))
    assembly.use(0, (DROP, KEEP, DROP, KEEP))
    assembly.use(0, (KEEP, DROP, DROP, KEEP))
    assembly.use(0, (KEEP, DROP, DROP, KEEP))
    assembly.restore()
    assert cuts == [{0, 2}, {1, 2}, set()]


def test_models_without_experts_and_groups_of_experts_are_refused(checkpoint: Any, mixture: Mixture) -> None:
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM has no experts to drop; use --granularity sublayer"):
        find_routed(*opened(str(checkpoint)))
    model, mapped = opened(mixture("mixtral"))
    model.config.n_group = 2
    with pytest.raises(UnsupportedModel, match="chooses among 2 groups of experts"):
        find_routed(model, mapped)
    del model.config.n_group
    model.config.num_local_experts = 5
    with pytest.raises(UnsupportedModel, match=r"layers have 4 experts, which config\.json cannot say of fewer"):
        find_routed(model, mapped)


def test_saliency_is_that_of_token_after_token(mixture: Mixture) -> None:
    model, mapped = opened(mixture("qwen3_moe"))
    layers, sequences = find_routed(model, mapped), [torch.arange(20, 52), torch.arange(60, 76)]
    found = measure_saliency(Runner(model, mapped), layers, sequences)
    assert found.tokens == 48
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    experts = model.model.layers[2].mlp.experts
    handle = experts.register_forward_pre_hook(lambda module, given: seen.append(given))
    with torch.no_grad():
        for ids in sequences:
            model(ids[None], use_cache=False)
        handle.remove()
        for number in range(4):
            parts = [
                float(weights[token, place] * experts[str(number)](experts.layer, hidden[token]).norm())
                for hidden, chosen, weights in seen
                for token, place in (chosen == number).nonzero().tolist()
            ]
            name = f"model.layers.2.mlp.experts.{number}"
            assert found.frequency[name] == len(parts) / 48
            assert found.weighted[name] == pytest.approx(sum(parts) / max(1, len(parts)), rel=1e-4)
