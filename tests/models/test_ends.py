import pytest

from evopress.errors import UnsupportedModel
from evopress.formats.hf import stored_tensors
from evopress.models import describe
from evopress.models.ends import head_unit, with_ends
from evopress.testing import ARCHITECTURES, pico_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_that_is_a_matrix_of_tokens_is_found_once(architecture):
    model = pico_model(architecture)
    plain = describe(model)
    mapped = with_ends(model, plain)
    assert mapped.of_block(0) == plain.of_block(0)
    found = [linear for linear in mapped.linears if linear not in plain.linears]
    parameters = [model.get_parameter(linear.view.parameter) for linear in found]
    expected = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert len(found) == len(expected)
    assert {id(parameter) for parameter in parameters} == expected
    assert [linear.block for linear in found] == [-1, 3][: len(found)]
    head = head_unit(model, mapped)
    assert model.get_parameter(head.view.parameter) is model.get_output_embeddings().weight
    assert head_unit(model, plain) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_store_the_ends_under_the_units_names(architecture):
    model = pico_model(architecture)
    stored = dict(stored_tensors(model))
    assert all(linear.view.parameter in stored for linear in with_ends(model, describe(model)).linears)


def test_an_embedding_that_is_no_weight_is_refused():
    model = pico_model("llama")
    mapped = describe(model)
    model.set_input_embeddings(type(model.model.norm)(48))
    with pytest.raises(UnsupportedModel, match="the embedding of LlamaForCausalLM is no module with a 2-D weight"):
        with_ends(model, mapped)
