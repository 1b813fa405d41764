"""Every number is compared with loops in float64 over what the model's own forward pass shows."""

import json
import math
from collections import defaultdict
from dataclasses import asdict

import pytest
import torch

from evopress.errors import BadWeights, NotEnoughTokens
from evopress.models import Runner, describe, measure_influence
from evopress.models.influence import MULTIPLES, SLAB
from evopress.models.weights import weight
from evopress.testing import ARCHITECTURES, pico_model

torch.set_num_threads(1)

LENGTHS = (11, 7, 11, 3)


def texts(lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 96, (length,), generator=generator) for length in lengths]


def seen_by_hooks(model, mapped, sequences):
    """What one forward pass for each sequence shows: states[i] (tokens, width) and inputs[linear] (tokens, in)."""
    states, inputs = defaultdict(list), defaultdict(list)
    blocks = list(model.get_submodule(mapped.blocks))

    def keep(store, key):
        def hook(module, args, kwargs, output=None):
            tensor = args[0] if args else kwargs["hidden_states"]
            tensor = tensor if output is None else output if isinstance(output, torch.Tensor) else output[0]
            store[key].append(tensor.detach().double().reshape(-1, tensor.shape[-1]))

        return hook

    hooks = [blocks[0].register_forward_pre_hook(keep(states, 0), with_kwargs=True)]
    hooks += [b.register_forward_hook(keep(states, i + 1), with_kwargs=True) for i, b in enumerate(blocks)]
    for linear in mapped.linears:
        module = model.get_submodule(linear.name)
        hooks.append(module.register_forward_pre_hook(keep(inputs, linear.name), with_kwargs=True))
    with torch.no_grad():
        for sequence in sequences:
            model(sequence[None])
    for hook in hooks:
        hook.remove()
    return [torch.cat(states[i]) for i in range(len(blocks) + 1)], {name: torch.cat(x) for name, x in inputs.items()}


def cosine(a, b):
    return sum(float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) for x, y in zip(a, b, strict=True)) / len(a)


def change(a, b):
    return sum(float((y - x).norm() / y.norm()) for x, y in zip(a, b, strict=True)) / len(a)


def outlier_share(model, linears, inputs, multiple):
    scores = []
    for linear in linears:
        x = inputs[linear.name]
        diagonal = (x.T @ x / len(x)).diagonal()
        scores.append((weight(model, linear.view).double().abs() * diagonal.sqrt()).flatten())
    pooled = torch.cat(scores)
    return float((pooled > multiple * pooled.mean()).double().mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_numbers_equal_the_reference(architecture):
    model = pico_model(architecture)
    mapped = describe(model)
    states, inputs = seen_by_hooks(model, mapped, texts())
    found = measure_influence(Runner(model, mapped), texts(), batch_tokens=24)
    assert found.tokens == sum(LENGTHS)
    for first in range(3):
        for last in range(first, 3):
            expected = cosine(states[first], states[last + 1]), change(states[first], states[last + 1])
            at = last - first
            assert (found.cosine[first][at], found.change[first][at]) == pytest.approx(expected, rel=1e-4)
    for multiple in MULTIPLES:
        shares = [outlier_share(model, mapped.of_block(block), inputs, multiple) for block in range(3)]
        entries = min(sum(math.prod(linear.view.shape) for linear in mapped.of_block(block)) for block in range(3))
        assert found.outliers[multiple] == pytest.approx(shares, abs=2.5 / entries)  # rounding may move one entry
    assert max(found.outliers[3]) > 0


def test_the_last_block_is_seen_before_the_final_norm():
    model = pico_model("llama")
    mapped = describe(model)
    ids = texts((20,))[0]
    with torch.no_grad():
        hidden = model(ids[None], output_hidden_states=True).hidden_states
    found = measure_influence(Runner(model, mapped), [ids])
    before, after = hidden[-2][0].double(), hidden[-1][0].double()
    assert abs(found.change[2][0] - change(before, after)) > 0.1


def test_batches_and_slabs_do_not_matter():
    model = pico_model("llama")
    runner = Runner(model, describe(model))
    sequences = texts((150, 150, 150, 40))
    assert sum(map(len, sequences)) > SLAB
    one, many = (measure_influence(runner, sequences, batch_tokens=tokens) for tokens in (10_000, 1))
    for table in ("cosine", "change"):
        for a, b in zip(getattr(one, table), getattr(many, table), strict=True):
            assert a == pytest.approx(b, rel=1e-5)
    assert measure_influence(runner, sequences) == measure_influence(runner, sequences)


def test_one_outlier_is_counted_once():
    model = pico_model("llama", blocks=2)
    mapped = describe(model)
    runner = Runner(model, mapped)
    entries = sum(math.prod(linear.view.shape) for linear in mapped.of_block(1))
    with torch.no_grad():
        weight(model, mapped.of_block(1)[0].view)[5, 7] = 1e3
    found = measure_influence(runner, texts(), multiples=(100,))
    assert found.outliers == {100: (0.0, 1 / entries)}


def test_a_block_that_changes_nothing():
    model = pico_model("llama")
    mapped = describe(model)
    with torch.no_grad():
        for linear in mapped.of_block(1):
            weight(model, linear.view).zero_()
    found = measure_influence(Runner(model, mapped), texts())
    assert found.cosine[1][0] == pytest.approx(1, abs=1e-12)
    assert found.change[1][0] == pytest.approx(0, abs=1e-7)
    assert found.cosine[0][1] == found.cosine[0][0]
    assert found.outliers[3][1] == 0


def test_small_changes_are_not_lost_in_rounding():
    model = pico_model("llama")
    mapped = describe(model)
    with torch.no_grad():
        for linear in mapped.of_block(1):
            if linear.role in ("self_attn.o_proj", "mlp.down_proj"):
                weight(model, linear.view).mul_(1e-4)
    states, _ = seen_by_hooks(model, mapped, texts())
    expected = change(states[1], states[2])
    assert expected < 1e-3
    assert measure_influence(Runner(model, mapped), texts()).change[1][0] == pytest.approx(expected, rel=1e-2)


def test_the_result_is_plain_and_the_model_is_left_alone():
    model = pico_model("gpt2")
    mapped = describe(model)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    seen = []
    runner = Runner(model, mapped)
    found = measure_influence(runner, texts(), batch_tokens=24, progress=lambda *step: seen.append(step))
    assert json.loads(json.dumps(asdict(found)))["outliers"]["5"] == list(found.outliers[5])
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert seen == [(i, 3, "influence of blocks") for i in range(4)]


def test_half_precision_is_compared_in_double():
    model = pico_model("llama").bfloat16()
    mapped = describe(model)
    states, _ = seen_by_hooks(model, mapped, texts())
    found = measure_influence(Runner(model, mapped), texts())
    assert found.change[0][2] == pytest.approx(change(states[0], states[3]), rel=1e-2)


def test_nothing_to_measure_and_broken_weights():
    model = pico_model("llama")
    runner = Runner(model, describe(model))
    for empty in ([], [torch.empty(0, dtype=torch.long)]):
        with pytest.raises(NotEnoughTokens, match="holds 0 tokens"):
            measure_influence(runner, empty)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] = torch.nan
    with pytest.raises(BadWeights, match="NaN or infinity"):
        measure_influence(runner, [torch.tensor([1, 2, 3, 4])])
