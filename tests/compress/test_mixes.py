"""The mixes of llama-quantize against what its own code, of llama.cpp v0.5.0, wrote for such models."""

from __future__ import annotations

import pytest

from evopress.compress.mixes import MIXES, mix_types
from evopress.errors import ConfigError

# The types that were written, of a Llama of 17 blocks, width 256, 4 heads and 1 for keys: those of v and down by block,
# each by its digit, that of the attention's output and that of all others. The head is Q6_K in all.
WRITTEN = {
    "Q2_K": ("44444444444444444", "33333333333333333", "Q3_K", "Q2_K"),
    "Q3_K_S": ("33333333333333333", "33333333333333333", "Q3_K", "Q3_K"),
    "Q3_K_M": ("55444444444444444", "54444444444444444", "Q4_K", "Q3_K"),
    "Q3_K_L": ("55555555555555555", "55555555555555555", "Q5_K", "Q3_K"),
    "Q4_K_S": ("55554444444444444", "55444444444444444", "Q4_K", "Q4_K"),
    "Q4_K_M": ("66446446446446666", "66446446446446666", "Q4_K", "Q4_K"),
    "Q5_K_S": ("55555555555555555", "55555555555555555", "Q5_K", "Q5_K"),
    "Q5_K_M": ("66556556556556666", "66556556556556666", "Q5_K", "Q5_K"),
    "Q6_K": ("66666666666666666", "66666666666666666", "Q6_K", "Q6_K"),
}
# The same of 32 blocks, width 64, MLP 256 and 2 heads for keys, where most widths want the fallbacks; the head is Q8_0.
NARROW = {
    "Q2_K": (["Q4_0"] * 32, "3" * 32, "Q4_0", "Q4_0"),
    "Q3_K_M": (["Q5_1"] * 2 + ["Q5_0"] * 30, "55" + "4" * 30, "Q5_0", "Q4_0"),
    "Q4_K_M": (
        ["Q8_0" if kind == "8" else "Q5_0" for kind in "88885585585585585585585585588888"],
        "66664464464464464464464464466666",
        "Q5_0",
        "Q5_0",
    ),
}


def columns(blocks: int, width: int, mlp: int, tied: bool = False, v: str = "attn_v") -> dict[str, int]:
    own = dict.fromkeys(("attn_q", "attn_k", v, "attn_output", "ffn_gate", "ffn_up"), width) | {"ffn_down": mlp}
    ends = {"token_embd.weight": width} | ({} if tied else {"output.weight": width})
    return ends | {f"blk.{block}.{name}.weight": size for block in range(blocks) for name, size in own.items()}


def of(types: dict[str, str], part: str) -> list[str]:
    return [kind for name, kind in types.items() if name.split(".")[-2] == part]


@pytest.mark.parametrize("mix", WRITTEN)
def test_types_are_those_that_llama_quantize_wrote(mix: str) -> None:
    types = mix_types(mix, columns(17, 256, 256), blocks=17, heads=4, key_heads=1)
    v, down, output, others = WRITTEN[mix]
    assert of(types, "attn_v") == [f"Q{digit}_K" for digit in v]
    assert of(types, "ffn_down") == [f"Q{digit}_K" for digit in down]
    assert set(of(types, "attn_output")) == {output}
    assert {kind for part in ("attn_q", "attn_k", "ffn_gate", "ffn_up") for kind in of(types, part)} == {others}
    assert (types["token_embd.weight"], types["output.weight"]) == (others, "Q6_K")


@pytest.mark.parametrize("mix", NARROW)
def test_odd_widths_get_the_fallbacks_that_llama_quantize_wrote(mix: str) -> None:
    types = mix_types(mix, columns(32, 64, 256), blocks=32, heads=4, key_heads=2)
    v, down, output, others = NARROW[mix]
    assert of(types, "attn_v") == v
    assert of(types, "ffn_down") == [f"Q{digit}_K" for digit in down]
    assert set(of(types, "attn_output")) == {output}
    assert set(of(types, "ffn_up")) == {others}
    assert (types["token_embd.weight"], types["output.weight"]) == (others, "Q8_0")


def test_a_tied_head_has_the_type_of_a_head() -> None:
    types = mix_types("Q4_K_M", columns(2, 256, 256, tied=True), blocks=2, heads=4, key_heads=4)
    assert types["token_embd.weight"] == "Q6_K"


def test_fused_projections_count_as_v() -> None:
    types = mix_types("Q3_K_M", columns(4, 256, 256, v="attn_qkv"), blocks=4, heads=4, key_heads=4)
    assert of(types, "attn_qkv") == ["Q5_K", "Q5_K", "Q4_K", "Q4_K"]


def test_eighty_blocks_with_shared_heads_are_taken_for_a_large_llama() -> None:
    names = columns(80, 256, 256)
    assert set(of(mix_types("Q2_K", names, blocks=80, heads=4, key_heads=2), "attn_v")) == {"Q5_K"}
    assert set(of(mix_types("Q2_K", names, blocks=80, heads=4, key_heads=4), "attn_v")) == {"Q3_K"}


def test_unknown_mixes_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"mix 'Q9' is unknown, must be one of Q2_K, Q3_K_S, .*, Q8_0"):
        mix_types("Q9", {}, blocks=1, heads=1, key_heads=1)
    assert set(WRITTEN) | {"Q8_0"} == set(MIXES)
