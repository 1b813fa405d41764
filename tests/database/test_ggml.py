"""ggml types as levels of a database: built from text, stored as ggml's bytes, and read back as what was stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evopress.core.ggml_types import fitting_types
from evopress.database.build import build_database, planned_bits
from evopress.database.methods import GgmlQuantization
from evopress.database.store import Database
from evopress.errors import ConfigError
from evopress.levels import Ggml
from evopress.levels.ggml import pack_ggml
from evopress.models import Runner, collect_inputs, describe, weight
from evopress.testing import pico_model

PRINT = {"model": "m"}
TYPES = ("Q2_K", "IQ4_NL", "Q4_0", "Q8_0", "F16")


def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 96, (16,), generator=generator) for _ in range(8)]


def build(path: Path, runner: Runner, **method: object) -> Database:
    text = sequences() if method.get("importance", True) else []
    return build_database(path, runner, GgmlQuantization(types=TYPES, **method), text, PRINT)  # type: ignore[arg-type]


@pytest.fixture
def runner() -> Runner:
    model = pico_model("llama", width=256, blocks=2)
    return Runner(model, describe(model))


def test_every_unit_has_the_types_that_fit_its_width(tmp_path: Path, runner: Runner) -> None:
    database = build(tmp_path, runner)
    database.require_complete()
    wide, narrow = ["Q2_K", "IQ4_NL", "Q8_0", "F16"], ["Q4_0", "Q8_0", "F16"]  # of 256 and of 96 columns
    for name, entry in database.manifest.units.items():
        levels = [level.name for level in entry.levels]
        assert levels == (narrow if name.endswith("down_proj") else wide)
        for level in entry.levels:
            packed = database.load(name, level.name)
            assert isinstance(packed, Ggml)
            assert (packed.type, packed.storage_bits) == (level.name, level.storage_bits)
            assert level.code_bits == level.storage_bits


def test_the_plan_is_what_is_stored(tmp_path: Path, runner: Runner) -> None:
    database = build(tmp_path, runner)
    stored = sum(level.storage_bits for entry in database.manifest.units.values() for level in entry.levels)
    assert planned_bits(runner.map, GgmlQuantization(types=TYPES)) == stored


def test_importance_comes_from_the_calibration_text(tmp_path: Path, runner: Runner) -> None:
    database = build(tmp_path, runner)
    seen: list[torch.Tensor] = []
    name = "model.layers.0.self_attn.q_proj"
    with (
        torch.no_grad(),
        collect_inputs(runner.model, runner.map, 0, lambda group, x: seen.append(x) if group == name else None),
    ):
        runner.model(torch.stack(sequences()))
    dense = weight(runner.model, runner.map.linears[0].view)
    squares = torch.cat(seen).square().mean(0)
    expected = pack_ggml(dense, "Q2_K", squares).dequantize()
    # Equal up to the few blocks where the order of summation tips a choice; without importance most differ.
    stored = database.dense(name, "Q2_K", torch.float32)
    assert torch.isclose(stored, expected, rtol=1e-3, atol=1e-6).float().mean() > 0.99
    assert torch.isclose(pack_ggml(dense, "Q2_K").dequantize(), expected, rtol=1e-3, atol=1e-6).float().mean() < 0.5


def test_without_importance_no_text_is_needed(tmp_path: Path, runner: Runner) -> None:
    database = build(tmp_path, runner, importance=False)
    linear = runner.map.linears[0]
    stored = database.load(linear.name, "Q2_K")
    assert torch.equal(stored.tensors()["data"], pack_ggml(weight(runner.model, linear.view), "Q2_K").data)


def test_methods_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="no ggml types"):
        GgmlQuantization(types=())
    with pytest.raises(ConfigError, match="'Q9' is unknown"):
        GgmlQuantization(types=("Q9",))
    with pytest.raises(ConfigError, match="IQ2_XS needs an importance matrix"):
        GgmlQuantization(types=("IQ2_XS",), importance=False)
    with pytest.raises(ConfigError, match="propagate is 'Q2_K', must be 'dense'"):
        GgmlQuantization(types=TYPES, propagate="Q2_K")  # type: ignore[arg-type]
    assert fitting_types(TYPES, 96) == ("Q4_0", "Q8_0", "F16")


def test_embeddings_take_even_types_that_need_importance() -> None:
    dense = torch.randn(8, 256, generator=torch.Generator().manual_seed(3)) * 0.1
    [levels] = GgmlQuantization(types=("IQ2_XXS", "Q2_K")).compress(["embedding"], [dense], None)
    assert torch.equal(levels["IQ2_XXS"].tensor.dequantize(), pack_ggml(dense, "IQ2_XXS", torch.ones(256)).dequantize())
    assert torch.equal(levels["Q2_K"].tensor.dequantize(), pack_ggml(dense, "Q2_K").dequantize())  # as llama-quantize
    assert list(levels) == ["IQ2_XXS", "Q2_K"]
