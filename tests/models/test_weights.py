import dataclasses

import pytest
import torch

from evopress.errors import UnsupportedModel
from evopress.models import describe, set_weight, weight
from evopress.testing import pico_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_switch_moves_a_pointer_and_back(architecture):
    model = pico_model(architecture)
    view = describe(model).linears[0].view
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(ids).logits
        dense = weight(model, view)
        assert tuple(dense.shape) == view.shape
        other = torch.zeros(view.shape)
        set_weight(model, view, other)
        assert weight(model, view).data_ptr() == other.data_ptr()
        assert not torch.equal(model(ids).logits, before)
        set_weight(model, view, dense)
        assert weight(model, view).data_ptr() == dense.data_ptr()
        assert model.get_parameter(view.parameter).is_contiguous()
        assert torch.equal(model(ids).logits, before)


def test_the_transposed_view_is_what_the_layer_multiplies_by():
    model = pico_model("gpt2")
    view = describe(model).linears[0].view
    layer = model.transformer.h[0].attn.c_attn
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ weight(model, view).T + layer.bias)


def test_wrong_shape_and_slices_are_refused():
    model = pico_model("gpt2")
    view = describe(model).linears[0].view
    with pytest.raises(
        ValueError, match=r"attn\.c_attn\.weight: got a weight of shape \(48, 144\), expected \(144, 48\)"
    ):
        set_weight(model, view, torch.zeros(48, 144))
    with pytest.raises(UnsupportedModel, match="slice"):
        set_weight(model, dataclasses.replace(view, index=0), torch.zeros(view.shape))
