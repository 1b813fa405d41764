import pytest
import torch
from torch import nn

from evopress.models import Runner, collect_inputs, describe
from evopress.models.capture import Rows
from evopress.models.weights import weight
from evopress.testing import ARCHITECTURES, pico_model

torch.set_num_threads(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inputs_reproduce_every_linears_output(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    runner = Runner(model, mapped)
    hidden, contexts = runner.begin(torch.randint(1, 96, (2, 11), generator=torch.Generator().manual_seed(0)))
    seen, outputs = {}, {}
    hooks = [
        model.get_submodule(linear.name).register_forward_hook(
            lambda module, args, output, name=linear.name: outputs.__setitem__(name, output.detach().clone())
        )
        for linear in mapped.of_block(0)
    ]
    with collect_inputs(model, mapped, 0, lambda group, x: seen.setdefault(group, []).append(x)):
        runner.block(0, hidden, contexts)
    for hook in hooks:
        hook.remove()
    assert sorted(seen) == sorted({linear.input_group for linear in mapped.of_block(0)})
    for linear in mapped.of_block(0):
        (x,) = seen[linear.input_group]
        assert x.shape == (22, linear.view.shape[1])
        bias = getattr(model.get_submodule(linear.name), "bias", None)
        ours = x @ weight(model, linear.view).T + (0 if bias is None else bias.detach())
        torch.testing.assert_close(ours, outputs[linear.name].reshape(22, -1), rtol=1e-4, atol=1e-5)


def test_rows_of_all_calls_of_a_linear_come_together():
    model = pico_model("llama")
    mapped = describe(model)
    runner = Runner(model, mapped)
    hidden, contexts = runner.begin(torch.tensor([[5, 6, 7]]))
    down = model.model.layers[0].mlp.down_proj
    model.model.layers[0].mlp.act_fn = nn.Sequential(model.model.layers[0].mlp.act_fn, Again(down))
    rows = Rows(["model.layers.0.mlp.down_proj"])
    with collect_inputs(model, mapped, 0, rows):
        runner.block(0, hidden, contexts)
    assert rows.of("model.layers.0.mlp.down_proj").shape == (6, 96)


class Again(nn.Module):
    """Calls a linear of elsewhere, and hands on what it was given."""

    def __init__(self, linear):
        super().__init__()
        self.linear = (linear,)

    def forward(self, x):
        self.linear[0](x)
        return x


def test_other_blocks_are_not_seen_and_hooks_end():
    model = pico_model("llama")
    mapped = describe(model)
    runner = Runner(model, mapped)
    ids = torch.tensor([[5, 6, 7]])
    seen = []
    with collect_inputs(model, mapped, 1, lambda group, x: seen.append(group)):
        runner.head_input(ids)
    assert len(seen) == 4
    assert all(group.startswith("model.layers.1.") for group in seen)
    runner.head_input(ids)
    with pytest.raises(ZeroDivisionError), collect_inputs(model, mapped, 1, lambda group, x: seen.append(group)):
        raise ZeroDivisionError
    runner.head_input(ids)
    assert len(seen) == 4
