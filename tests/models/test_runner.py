import pytest
import torch

from evopress.errors import BadWeights, UnsupportedModel
from evopress.models import Runner, describe
from evopress.testing import ARCHITECTURES, WINDOW, pico_model, random_model
from evopress.testing.tiny import tiny_config

torch.set_num_threads(1)


def make(architecture):
    model = pico_model(architecture)
    return model, Runner(model, describe(model))


def random_ids(*shape, seed=0):
    return torch.randint(1, 96, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 3 * WINDOW + 5), (3, 2 * WINDOW)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_the_models_own(architecture, shape):
    model, runner = make(architecture)
    ids = random_ids(*shape)
    with torch.no_grad():
        stock = model(ids).logits
    assert torch.equal(runner.logits(runner.head_input(ids)), stock)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contexts_serve_any_batch_of_the_shape_and_blocks_keep_their_input(architecture):
    model, runner = make(architecture)
    _, contexts = runner.begin(random_ids(2, 20, seed=1))
    ids = random_ids(2, 20, seed=2)
    hidden, _ = runner.begin(ids)
    for block in range(3):
        kept, hidden = hidden.clone(), runner.block(block, before := hidden, contexts)
        assert torch.equal(kept, before)
        assert not torch.equal(hidden, before)
    with torch.no_grad():
        assert torch.equal(runner.logits(runner.finish(hidden, contexts)), model(ids).logits)


def test_sliding_window_reaches_the_blocks():
    _, windowed = make("mistral")
    model = pico_model("mistral")
    model.config.sliding_window = None
    ids = random_ids(1, 4 * WINDOW)
    full = Runner(model, describe(model)).head_input(ids)
    difference = (windowed.head_input(ids) - full).abs().amax(dim=-1)[0]
    assert difference[:WINDOW].max() < 1e-5
    assert difference[WINDOW + 1 :].min() > 1e-3


def test_begin_runs_no_block_no_tail_and_no_head():
    model, runner = make("opt")
    ran = []
    watched = [*model.model.decoder.layers, model.model.decoder.final_layer_norm, model.lm_head]
    parts = [part for block in watched for part in block.children()] + watched[-2:]
    for part in parts:
        part.register_forward_hook(lambda module, args, output: ran.append(module))
    hidden, contexts = runner.begin(random_ids(2, 5))
    assert ran == []
    assert hidden.shape == (2, 5, 48)
    assert len(contexts.blocks) == 3


def test_begin_restores_the_model_after_success_and_failure():
    model, runner = make("falcon")
    model.transformer.h[1].forward = own = model.transformer.h[1].forward
    runner.begin(random_ids(1, 4))
    with pytest.raises(IndexError):
        runner.begin(torch.tensor([[10_000]]))
    assert ["forward" in block.__dict__ for block in model.transformer.h] == [False, True, False]
    assert model.transformer.h[1].forward is own


def test_logits_of_a_part_are_a_part_of_the_logits():
    _, runner = make("granite")
    head_input = runner.head_input(random_ids(2, 6))
    part = head_input.reshape(-1, 48)[3:7]
    torch.testing.assert_close(runner.logits(part), runner.logits(head_input).reshape(-1, 96)[3:7])
    assert runner.vocabulary == 96
    assert runner.device == torch.device("cpu")


def test_logits_are_fp32_and_nothing_needs_gradients():
    model = pico_model("gemma2").to(torch.bfloat16)
    runner = Runner(model, describe(model))
    logits = runner.logits(runner.head_input(random_ids(1, 6)))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert logits.abs().max() <= 2.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_the_models_own_exactly_when_the_hidden_state_asks(architecture):
    model, runner = make(architecture)
    ids = random_ids(2, 12)
    hidden, contexts = runner.begin(ids)
    start = hidden.clone().requires_grad_()
    for given in (hidden, start):
        state = given
        with torch.no_grad():
            for block in range(3):
                state = runner.block(block, state, contexts)
            logits = runner.logits(runner.finish(state, contexts))
        assert logits.requires_grad == state.requires_grad == given.requires_grad
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad(logits, start, weight)
    entered = []

    def enter(module, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"]).detach().requires_grad_())
        return ((entered[0], *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": entered[0]})

    first = model.get_submodule(describe(model).blocks)[0]
    with first.register_forward_pre_hook(enter, with_kwargs=True):
        stock = model(ids, use_cache=False).logits
    (theirs,) = torch.autograd.grad(stock, entered, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def with_logits(model, change):
    """The model with a last step of its own."""
    own = model.forward

    def forward(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    mapped = describe(model)
    model.forward = forward
    return mapped


def test_what_the_model_does_to_logits_is_left_to_the_model():
    model = pico_model("llama")
    runner = Runner(model, with_logits(model, lambda logits: logits.cos() * 1.01))
    ids = random_ids(2, 9)
    with torch.no_grad():
        stock = model(ids).logits
    head_input = runner.head_input(ids)
    assert torch.equal(runner.logits(head_input), stock)
    torch.testing.assert_close(runner.logits(head_input[0, 3:5]), stock[0, 3:5])


def test_a_step_that_mixes_tokens_is_refused():
    model = pico_model("llama")
    mapped = with_logits(model, lambda logits: logits - logits.mean(1, keepdim=True))
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM run block by block differs"):
        Runner(model, mapped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["gemma3n_text", "recurrent_gemma", "mamba2", "bert"])
def test_what_lies_between_the_blocks_is_left_to_the_model(architecture, dtype):
    model = random_model(tiny_config(architecture)).to(dtype)
    runner = Runner(model, describe(model))
    ids = random_ids(2, 13)
    with torch.no_grad():
        stock = model(ids).logits.float()
    tolerance = float(stock.abs().max()) * (1e-5 if dtype == torch.float32 else 2e-2)
    torch.testing.assert_close(runner.logits(runner.head_input(ids)), stock, rtol=0, atol=tolerance)
    hidden, contexts = runner.begin(ids)
    start = hidden.clone().requires_grad_()
    state = start
    for block in range(runner.map.n_blocks):
        state = runner.block(block, state, contexts)
    (gradient,) = torch.autograd.grad(runner.logits(runner.finish(state, contexts)).square().sum(), start)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_weights_that_are_not_finite():
    model = pico_model("llama")
    mapped = describe(model)
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(BadWeights, match="NaN or infinity"):
        Runner(model, mapped)
