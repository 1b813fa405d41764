"""The memory formulas against numbers worked out by hand, and the refusal that they lead to."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from evopress.errors import ResourceError
from evopress.models.memory import (
    Shapes,
    available_memory,
    build_memory,
    polish_memory,
    require_memory,
    search_memory,
    sensitivity_memory,
)

SHAPES = Shapes(
    parameters=1000, bytes_per_weight=2, blocks=3, width=8, vocabulary=50, groups=((8, 24), (8, 8), (16, 8))
)
"""q, k and v read 8 columns, the projection after them 8, the one after the MLP's middle 16."""


def test_a_build_holds_one_block() -> None:
    needs = build_memory(SHAPES, tokens=100, batch_tokens=32, level_bits=(2.0, 4.0))
    assert needs == {
        "model": 2000,
        "calibration activations": 2 * 100 * 8 * 2,
        "inputs of one block": 32 * (8 + 8 + 16) * 2,
        "Hessians of one block": 4 * (64 + 64 + 256),
        "sweep of one input group": 4 * (6 * 256 + 4 * 16 * 8 * 2),
        "levels of one block": (8 * 24 + 8 * 8 + 16 * 8) * 6 // 8,
    }
    deeper = build_memory(replace(SHAPES, blocks=30), tokens=100, batch_tokens=32, level_bits=(2.0, 4.0))
    assert deeper == needs


def test_a_build_that_corrects_for_compressed_inputs_holds_both() -> None:
    plain, both = (
        build_memory(SHAPES, tokens=100, batch_tokens=32, level_bits=(2.0, 4.0), corrects=on) for on in (False, True)
    )
    for part in ("calibration activations", "inputs of one block", "Hessians of one block"):
        assert both.pop(part) == 2 * plain.pop(part)
    assert both == plain


def test_an_experts_hessian_has_nothing_of_the_uncompressed_model_beside_it() -> None:
    routed = replace(SHAPES, reach=(1.0, 1.0, 0.5))
    needs = build_memory(routed, tokens=100, batch_tokens=32, level_bits=(2.0, 4.0), corrects=True)
    assert needs["Hessians of one block"] == 4 * (2 * (64 + 64) + 256)
    assert needs["inputs of one block"] == 2 * 32 * (8 + 8 + 16 // 2) * 2


def test_a_polish_holds_text_twice_on_its_way_and_one_blocks_numbers() -> None:
    needs = polish_memory(SHAPES, tokens=100, batch_tokens=10)
    assert needs == {
        "hidden states": 2 * 2 * 100 * 8 * 2,
        "numbers of one block": 7 * 4 * (8 * 24 + 8 * 8 + 16 * 8),
        "gradients of a batch": 4 * 10 * (8 + 24 + 8 + 8 + 16 + 8) * 2,
        "packed levels": 3 * (8 * 24 + 8 * 8 + 16 * 8) * 2,
    }
    assert polish_memory(replace(SHAPES, blocks=30), 100, 10)["numbers of one block"] == needs["numbers of one block"]


def test_embedding_and_head_count_where_they_are_compressed() -> None:
    needs = build_memory(replace(SHAPES, ends=400), tokens=100, batch_tokens=32, level_bits=(2.0, 4.0))
    assert needs["embedding and head"] == 400 * (4 + 4 + 2) + 400 * 6 // 8


def test_a_search_holds_hidden_states_not_logits_of_the_teacher() -> None:
    needs = search_memory(SHAPES, tokens=100, candidates=5, batch_tokens=32, head_bytes=10_000)
    assert needs["teacher"] == 100 * 8 * 2
    assert needs["candidates' hidden states"] == 2 * 5 * 32 * 8 * 2
    assert needs["logits"] == 40_000


def test_sensitivities_hold_the_inputs_of_all_blocks_and_one_blocks_gradients() -> None:
    needs = sensitivity_memory(SHAPES, tokens=10)
    assert needs["inputs of all blocks"] == 10 * 3 * 8 * 2
    assert needs["gradients of one block"] == 10 * ((8 + 8 + 16) * 2 + 2 * 4 * (24 + 8 + 8))


def test_what_does_not_fit_is_refused_with_its_largest_part() -> None:
    require_memory({"a": 60, "b": 40}, 100, "the build")
    said = "scoring 3 profiles needs 3.0 GB of memory and 2.0 GB are available; most of it is teacher (2.5 GB)"
    with pytest.raises(ResourceError, match=re.escape(said)):
        require_memory({"model": 500_000_000, "teacher": 2_500_000_000}, 2_000_000_000, "scoring 3 profiles")
    assert available_memory("cpu") > 100_000_000
