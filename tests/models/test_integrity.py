import subprocess
import sys

import pytest
import torch

from evopress.errors import BadWeights
from evopress.models import check_finite, fingerprint
from evopress.testing import pico_model


def test_one_weight_changes_the_fingerprint():
    model = pico_model("llama")
    before = fingerprint(model)
    assert before == fingerprint(pico_model("llama"))
    assert before != fingerprint(pico_model("llama", seed=1))
    value = model.model.layers[2].mlp.down_proj.weight.data
    value[47, 95] = torch.nextafter(value[47, 95], torch.tensor(9.0))
    assert before != fingerprint(model)


def test_the_configuration_counts_where_it_changes_what_is_computed():
    model = pico_model("llama")
    before = fingerprint(model)
    model.config.rms_norm_eps = 1e-3
    assert before != fingerprint(model)
    model = pico_model("llama")
    model.config._name_or_path = model.config.transformers_version = "elsewhere"
    assert before == fingerprint(model)


def test_another_process_finds_the_same_fingerprint():
    code = "from evopress.models import fingerprint; from evopress.testing import pico_model; "
    run = subprocess.run(
        [sys.executable, "-c", code + "print(fingerprint(pico_model('gpt2', blocks=1)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == fingerprint(pico_model("gpt2", blocks=1))


def test_bfloat16_has_a_fingerprint_of_its_own():
    assert fingerprint(pico_model("gpt2").to(torch.bfloat16)) != fingerprint(pico_model("gpt2"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"]
)
def test_bad_weights_are_named(name, value):
    model = pico_model("llama")
    check_finite(model)
    model.get_parameter(name).data.view(-1)[-1] = value
    with pytest.raises(BadWeights, match=f"^{name} holds NaN or infinity"):
        check_finite(model)
