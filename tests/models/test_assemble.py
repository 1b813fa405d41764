"""Slots: levels go where a weight view says, and the dense model comes back bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evopress.core.profile import DENSE, Profile
from evopress.models import describe
from evopress.models.assemble import Assembly, WeightSlot, weight_slots
from evopress.models.weights import weight
from evopress.testing import pico_model


def experts() -> nn.Parameter:
    """Three matrices (4, 6) in one parameter."""
    return nn.Parameter(torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)))


def halved(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
    """Levels of the experts: half of each, and for a unit that is all of them, of all."""
    dense = experts().data
    return ((dense if unit == "all" else dense[int(unit)]) / 2).to(dtype)


def test_one_matrix_of_a_parameter_is_set_and_given_back() -> None:
    parameter, dense = experts(), experts().data
    memory = parameter.data_ptr()
    slots = [WeightSlot(str(index), parameter, halved, index) for index in (0, 2)]
    slots[1].apply("2")
    assert torch.equal(parameter[2], dense[2] / 2)
    assert torch.equal(parameter[:2], dense[:2])
    slots[0].apply("2")
    slots[1].apply(DENSE)
    assert torch.equal(parameter[0], dense[0] / 2)
    slots[0].apply(None)
    assert torch.equal(parameter, dense)
    assert parameter.data_ptr() == memory


def test_all_experts_at_once_are_a_pointer() -> None:
    parameter, dense = experts(), experts().data
    memory, slot = parameter.data_ptr(), WeightSlot("all", parameter, halved)
    slot.apply("2")
    assert torch.equal(parameter, dense / 2)
    slot.apply(None)
    assert parameter.data_ptr() == memory


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_levels_of_a_profile_lie_where_the_views_say(architecture: str) -> None:
    """Transposed parameters (GPT-2) are given tensors in their own layout."""
    model = pico_model(architecture, blocks=2)
    found = describe(model)
    dense = {linear.name: weight(model, linear.view).clone() for linear in found.linears}
    views = {linear.name: linear.view for linear in found.linears}

    def load(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        made = dense[unit] * int(level)
        return (made.T if views[unit].transposed else made).contiguous().to(dtype)

    profile = Profile.of({name: str(2 + number % 3) for number, name in enumerate(dense)})
    with Assembly(weight_slots(model, found, load)) as assembly:
        assembly.apply(profile)
        for name, level in profile.items():
            assert torch.equal(weight(model, views[name]), dense[name] * int(level))
    assert all(torch.equal(weight(model, views[name]), dense[name]) for name in dense)


def test_a_view_knows_its_size() -> None:
    view = describe(pico_model("llama", blocks=1)).linears[0].view
    assert view.size == view.shape[0] * view.shape[1] == replace(view, transposed=True).size
