"""The evaluator against a loop over the stock model, and its promises: same bits with sharing, NaN last."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from evopress.core.profile import Profile
from evopress.fitness.divergence import KL, Perplexity
from evopress.fitness.evaluator import Evaluator
from evopress.fitness.tree import Tree
from evopress.models import Runner, describe
from evopress.models.assemble import Assembly, WeightSlot, weight_slots
from evopress.models.ends import with_ends
from evopress.testing import ARCHITECTURES, pico_model
from evopress.text.tokens import Piece, Tokens

Make = Callable[..., Evaluator]


def shaken(unit: str, level: str, dtype: torch.dtype, dense: dict[str, torch.Tensor]) -> torch.Tensor:
    """A fake level: the dense weight with noise that depends on unit and level."""
    noise = torch.Generator().manual_seed(hash_of(unit, level))
    tensor = dense[unit]
    return (tensor + torch.randn(tensor.shape, generator=noise) * 0.5 / int(level)).to(dtype)


def hash_of(unit: str, level: str) -> int:
    return sum(map(ord, unit)) * 10 + int(level)


@pytest.fixture
def make() -> Iterator[Make]:
    """Make an evaluator on a pico model with noisy levels, dense again at the end."""
    open_assemblies: list[Assembly] = []

    def build(architecture: str = "llama", **options: object) -> Evaluator:
        model = pico_model(architecture).to(options.pop("dtype", torch.float32))
        mapped = with_ends(model, describe(model)) if options.pop("ends", False) else describe(model)
        dense = {linear.name: model.get_parameter(linear.view.parameter).data for linear in mapped.linears}
        assembly = Assembly(weight_slots(model, mapped, lambda unit, level, dtype: shaken(unit, level, dtype, dense)))
        open_assemblies.append(assembly)
        rng = torch.Generator().manual_seed(0)
        sequences = [torch.randint(0, 96, (12,), generator=rng) for _ in range(options.pop("sequences", 9))]
        measures = options.pop("measures", (KL(), Perplexity()))
        return Evaluator(
            Runner(model, mapped),
            assembly,
            Tokens.of(sequences, "noise"),
            measures,
            batch_tokens=options.pop("batch_tokens", 36),
            **options,  # type: ignore[arg-type]
        )

    yield build
    for assembly in open_assemblies:
        assembly.restore()


def profiles(evaluator: Evaluator, count: int, seed: int = 0) -> list[Profile]:
    """A parent and offspring that differ from it in one unit each."""
    rng = random.Random(seed)
    names = [linear.name for linear in evaluator.runner.map.linears]
    parent = Profile.of({name: rng.choice("234") for name in names})
    made = [parent]
    while len(made) < count:
        child = Profile.of({**dict(parent.items()), rng.choice(names): rng.choice("234")})
        if child not in made:
            made.append(child)
    return made


def all_pieces(evaluator: Evaluator) -> list[Piece]:
    return [Piece(i, len(sequence)) for i, sequence in enumerate(evaluator.text.sequences)]


def loop(evaluator: Evaluator, profile: Profile) -> tuple[float, float]:
    """KL and perplexity of a profile, from the stock model's logits, one sequence at a time, in double precision."""
    model, kls, losses = evaluator.runner.model, [], []
    with torch.no_grad():
        evaluator.assembly.restore()
        teacher = [model(ids[None]).logits[0].double().log_softmax(-1) for ids in evaluator.text.sequences]
        for block, choice in enumerate(evaluator.assembly.choices(profile)):
            evaluator.assembly.use(block, choice)
        for ids, p in zip(evaluator.text.sequences, teacher, strict=True):
            q = model(ids[None]).logits[0].double().log_softmax(-1)
            kls.append((p.exp() * (p - q)).sum(-1))
            losses.append(-q[:-1].gather(-1, ids[1:, None])[:, 0])
    return torch.cat(kls).mean().item(), torch.cat(losses).mean().exp().item()


@pytest.mark.parametrize("ends", [False, True], ids=["linears", "embedding and head too"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_a_loop_over_the_stock_model(make: Make, architecture: str, ends: bool) -> None:
    evaluator = make(architecture, ends=ends)
    profile = profiles(evaluator, 1)[0]
    scores = evaluator.evaluate([None, profile], all_pieces(evaluator))

    assert scores.scores(0)[0] == 0.0
    assert (scores.scores(0)[1], scores.scores(1)[1]) == pytest.approx(loop(evaluator, profile), rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_sharing_prefixes_gives_the_same_bits_for_fewer_passes(make: Make, architecture: str) -> None:
    shared, alone = make(architecture), make(architecture, share=False)
    candidates = profiles(shared, 6)
    ours, theirs = (e.evaluate(candidates, all_pieces(e)) for e in (shared, alone))
    assert torch.equal(ours.sums, theirs.sums)
    assert shared.work.passes < alone.work.passes == alone.work.passes_without_sharing


@pytest.mark.parametrize("ends", [False, True], ids=["linears", "embedding and head too"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_passes_give_the_same_scores_in_fewer_calls(make: Make, architecture: str, ends: bool) -> None:
    """At most four copies of the two sequences fit into a pass."""
    alone = make(architecture, ends=ends)
    merged = make(architecture, ends=ends, batch_tokens=4 * 24 + 1, merge=True)
    candidates = profiles(alone, 12)
    shapes: dict[str, list[int]] = {"alone": [], "merged": []}
    for name, evaluator in (("alone", alone), ("merged", merged)):
        block = evaluator.runner.block
        evaluator.runner.block = lambda i, hidden, contexts, name=name, block=block: (  # type: ignore[method-assign]
            shapes[name].append(len(hidden)) or block(i, hidden, contexts)
        )
        evaluator.require_teacher([Piece(0, 12), Piece(1, 12)])
    shapes["alone"].clear()
    shapes["merged"].clear()
    ours, theirs = (e.evaluate(candidates, [Piece(0, 12), Piece(1, 12)]).sums for e in (merged, alone))
    assert torch.allclose(ours, theirs, rtol=1e-4)
    assert merged.work == alone.work
    assert sum(shapes["merged"]) == sum(shapes["alone"])
    assert max(shapes["alone"]) == 2 < max(shapes["merged"]) == 8
    assert len(shapes["merged"]) < len(shapes["alone"])


@pytest.mark.parametrize("at_once", [1, 4, 7])
def test_many_candidates_walk_in_bounded_groups_to_the_same_bits(
    make: Make, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, grouped = make(), make(at_once=at_once)
    candidates = [None, *profiles(together, 16), None]
    expected = together.evaluate(candidates, all_pieces(together))
    seen: list[int] = []
    walk = Tree.walk
    monkeypatch.setattr(Tree, "walk", lambda tree, group, ids: seen.append(len(group)) or walk(tree, group, ids))
    done: list[tuple[int, int]] = []
    found = grouped.evaluate(candidates, all_pieces(grouped), lambda *step: done.append(step))
    assert torch.equal(found.sums, expected.sums)
    assert torch.equal(found.counts, expected.counts)
    assert max(seen) <= at_once
    assert sum(seen) == 3 * 16
    assert done == [(step, len(done) - 1) for step in range(len(done))]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"], ids=["own head", "tied head"])
def test_ends_are_switched_for_each_candidate(make: Make, architecture: str) -> None:
    """Each candidate alone, the dense model among them, has the score that it has in company."""
    evaluator = make(architecture, ends=True)
    parent = dict(profiles(evaluator, 1)[0].items())
    ends = [linear.name for linear in evaluator.runner.map.linears if not 0 <= linear.block < 3]
    assert len(ends) == (2 if architecture == "llama" else 1)
    candidates = [None, *(Profile.of({**parent, end: level}) for end in ends for level in "234"), None]
    together = evaluator.evaluate(candidates, all_pieces(evaluator)).sums
    alone = [make(architecture, ends=True).evaluate([one], all_pieces(evaluator)).sums[0] for one in candidates]
    assert torch.equal(together, torch.stack(alone))
    assert len({float(sums[0].sum()) for sums in together}) == 2 + 2 * len(ends)  # dense, parent, two others an end


def test_a_call_draws_a_fresh_minibatch_and_continues_after_a_resume(make: Make) -> None:
    first = make(seed=5)
    candidates = profiles(first, 3)
    history = [first(candidates, 24) for _ in range(3)]
    assert history[0] != history[1]
    resumed = make(seed=5)
    resumed.calls = 2
    assert resumed(candidates, 24) == history[2]


def test_scores_are_kept_for_each_piece_and_add_up(make: Make) -> None:
    evaluator = make()
    pieces = [Piece(0, 12), Piece(3, 7), Piece(5, 12)]
    together = evaluator.evaluate(profiles(evaluator, 2), pieces)
    single = [evaluator.evaluate(profiles(evaluator, 2), [piece]) for piece in pieces]
    torch.testing.assert_close(together.sums, torch.cat([one.sums for one in single], -1), rtol=1e-4, atol=1e-5)
    assert together.counts.tolist() == [[12, 7, 12], [11, 6, 11]]


def test_nan_becomes_infinity_and_so_ranks_last(make: Make) -> None:
    evaluator = make()
    good, bad = profiles(evaluator, 2)
    changed = next(name for name, level in bad.items() if level != good[name])
    slot = next(slot for slots in evaluator.assembly._slots for slot in slots if slot.name == changed)
    assert isinstance(slot, WeightSlot)
    load = slot._load

    def broken(unit: str, level: str, dtype: torch.dtype) -> torch.Tensor:
        tensor = load(unit, level, dtype)
        return torch.full_like(tensor, math.nan) if level == bad[changed] else tensor

    slot._load = broken
    scores = evaluator.evaluate([good, bad], all_pieces(evaluator)).scores()
    assert math.isfinite(scores[0])
    assert scores[1] == math.inf


def test_the_teacher_keeps_hidden_states_not_logits(make: Make) -> None:
    evaluator = make()
    evaluator(profiles(evaluator, 2), 108)
    width = evaluator.runner.model.config.hidden_size
    kept = sum(evaluator.teacher.hidden(i, 12).numel() for i in range(9))
    assert kept == 108 * width


def test_teacher_does_not_depend_on_who_asks_first(make: Make) -> None:
    one, other = make(), make()
    one.evaluate([None], [Piece(8, 12)])
    one.evaluate([None], all_pieces(one))
    other.evaluate([None], all_pieces(other))
    assert all(torch.equal(one.teacher.hidden(i, 12), other.teacher.hidden(i, 12)) for i in range(9))


def test_the_model_is_dense_again_after_the_assembly(make: Make) -> None:
    evaluator = make()
    model = evaluator.runner.model
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    with evaluator.assembly:
        evaluator(profiles(evaluator, 2), 24)
        assert before != {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert before == {name: parameter.data_ptr() for name, parameter in model.named_parameters()}


def test_scores_of_a_model_in_half_precision_are_not_rounded(make: Make) -> None:
    """Fitness in half precision gives ties (logarithms in steps of 1/32), and ties decide selections."""
    evaluator = make(dtype=torch.bfloat16, sequences=1)
    for profile in profiles(evaluator, 4):
        scores = evaluator.evaluate([profile], all_pieces(evaluator))
        assert (scores.scores(0)[0], scores.scores(1)[0]) == pytest.approx(loop(evaluator, profile), rel=1e-5)
