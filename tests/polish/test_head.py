"""The head's codes and scales follow the divergence of its own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evopress import pipeline
from evopress.levels.grid import Grid
from evopress.levels.packed import Packed
from evopress.levels.rtn import quantize_rtn
from evopress.models import Linear, Runner, describe
from evopress.models.ends import head_unit, with_ends
from evopress.models.weights import weight
from evopress.polish.blocks import Rates
from evopress.polish.head import polish_head
from evopress.polish.learnable import Learnable, learnable
from evopress.polish.model import teacher_inputs
from evopress.polish.text import Text
from evopress.run.observer import Observer
from evopress.steps.workspace import Workspace
from evopress.testing import pico_model

POLISH = {"polish_batch": 64, "polish_tokens": 1024, "polish_watched": 64, "polish_epochs": 3, "dtype": "float32"}


def setting() -> tuple[Text, Linear, Packed, Learnable, list[torch.Tensor]]:
    model = pico_model("llama", blocks=2)
    runner = Runner(model, with_ends(model, describe(model)))
    text = Text.of(runner, [torch.arange(3, 19) * own % 96 for own in (5, 7, 11, 13)], part_tokens=32)
    head = head_unit(model, runner.map)
    assert head is not None
    dense = weight(model, head.view)
    packed = quantize_rtn([dense], [Grid(2, 16)])[0][0].tensor
    form = learnable(packed, dense)
    assert form is not None
    return text, head, packed, form, teacher_inputs(text)


def slow_divergence(text: Text, head: Linear, weights: torch.Tensor, inputs: list[torch.Tensor]) -> float:
    """The mean KL of logits made with `weights` from those of the dense head, in float64."""
    dense = weight(text.runner.model, head.view).double()
    rows = torch.cat([own.flatten(0, 1) for own in inputs]).double()
    p, q = (rows @ dense.T).log_softmax(-1), (rows @ weights.double().T).log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_what_is_learned_is_the_divergence_of_the_logits():
    text, head, packed, form, inputs = setting()
    rates = Rates(epochs=60, codes=0.005, floats=0.01)
    outcome = polish_head(text, head, packed, form, inputs, inputs, rates, rows=7)
    assert outcome.before == pytest.approx(slow_divergence(text, head, packed.dequantize(), inputs), rel=1e-4)
    assert outcome.after == pytest.approx(slow_divergence(text, head, form.packed().dequantize(), inputs), rel=1e-4)
    assert outcome.after < 0.5 * outcome.before
    learned: Any = form.packed()
    assert learned.storage_bits == packed.storage_bits
    assert not torch.equal(learned.unpacked_codes(), packed.unpacked_codes())  # type: ignore[attr-defined]
    assert torch.equal(text.runner.model.lm_head.weight, weight(text.runner.model, head.view))  # dense again


def test_what_does_not_gain_stays_bit_for_bit():
    text, head, packed, form, inputs = setting()
    outcome = polish_head(text, head, packed, form, inputs, inputs, Rates(epochs=1, codes=9, floats=0.9), rows=64)
    assert outcome.after == outcome.before
    assert torch.equal(form.packed().dequantize(), packed.dequantize())


def test_a_run_learns_its_head_behind_the_blocks_and_goes_on_there(small_other: dict[str, Any], tmp_path: Path):
    options = {"bits": 3, "levels": (2, 3, 4), "group_size": 16, "embeddings": True, "generations": 1}
    run = pipeline.quantize(out=tmp_path / "run", **small_other | options | POLISH | {"polish": "none"})
    workspace = Workspace(run.directory, Observer())
    notes: list[str] = []

    class Notes(Observer):
        def note(self, text: str) -> None:
            if "head" in text:
                notes.append(text)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.polish(Workspace(run.directory, Notes()), "blocks")
    pipeline.polish(Workspace(run.directory, Observer()), "blocks")
    assert notes[0].startswith("polish: the head's KL")
    workspace = Workspace(run.directory, Observer())
    levels = workspace.polished(run.profile)
    assert levels is not None
    name, level = "lm_head", run.profile["lm_head"]
    before: Any = workspace.database.load(name, level)
    after: Any = levels.load(name, level)
    assert not torch.equal(before.unpacked_codes(), after.unpacked_codes())
    embedding, level = "model.embed_tokens", run.profile["model.embed_tokens"]
    assert torch.equal(
        workspace.database.load(embedding, level).dequantize(), levels.load(embedding, level).dequantize()
    )
