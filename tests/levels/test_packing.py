"""Packing is dense, deterministic and loses nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evopress.errors import ConfigError
from evopress.levels.packing import pack, packed_bytes, unpack


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=70))))
def test_round_trip_in_the_fewest_bytes(case: tuple[int, list[int]]) -> None:
    bits, values = case
    codes = torch.tensor(values, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(len(values), bits) == (len(values) * bits + 7) // 8
    assert torch.equal(unpack(packed, bits, len(values)), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_layout_is_the_documented_one(bits: int) -> None:
    codes = (37 * torch.arange(8 * 3 + 5) % 2**bits).to(torch.uint8)
    lanes = codes[:24].view(8, 3).T.tolist()
    whole = [sum(code << (bits * k) for k, code in enumerate(lane)).to_bytes(bits, "little") for lane in lanes]
    rest = sum(code << (bits * k) for k, code in enumerate(codes[24:].tolist())).to_bytes((5 * bits + 7) // 8, "little")
    expected = bytes(whole[j][i] for i in range(bits) for j in range(3)) + rest
    assert bytes(pack(codes, bits).tolist()) == expected


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="code 4 does not fit in 2 bits"):
        pack(torch.tensor([1, 4], dtype=torch.uint8), 2)


def test_packed_codes_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 bytes, must have 2"):
        unpack(torch.zeros(3, dtype=torch.uint8), 2, 8)
