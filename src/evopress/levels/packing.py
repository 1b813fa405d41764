"""Dense bit packing: n codes of b bits take ceil(n * b / 8) bytes, whatever b is.

Eight codes fill b bytes exactly. So that packing and unpacking are whole-array operations on contiguous memory, the
eight codes that share bytes are not neighbours: with m = n // 8, lane k holds the codes k*m to (k+1)*m - 1, and code j
of all eight lanes makes one little-endian number of 8 * b bits whose i-th byte is stored at i*m + j. The n % 8 codes
that are left over follow in the same way with m = 1. Unpacking costs about two passes over the codes.
"""

import torch
from torch import Tensor

from evopress.errors import ConfigError


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 codes of any shape into a flat uint8 tensor; ConfigError when a code does not fit in `bits`.

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), bits=2).tolist()
    [57]
    """
    codes = codes.reshape(-1)
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise ConfigError(f"code {int(codes.max())} does not fit in {bits} bits, must be at most {2**bits - 1}")
    lanes = codes.numel() // 8
    packed = codes.new_zeros(packed_bytes(codes.numel(), bits))
    _pack_lanes(codes[: 8 * lanes].view(8, lanes), bits, packed[: bits * lanes].view(bits, lanes))
    _pack_lanes(codes[8 * lanes :].view(-1, 1), bits, packed[bits * lanes :].view(-1, 1))
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` codes of `pack`, as a flat uint8 tensor; ConfigError when `packed` has another length.

    >>> unpack(torch.tensor([57], dtype=torch.uint8), bits=2, count=3).tolist()
    [1, 2, 3]
    """
    if packed.numel() != packed_bytes(count, bits):
        raise ConfigError(
            f"packed codes have {packed.numel()} bytes, must have {packed_bytes(count, bits)} ({count} x {bits} bits)"
        )
    lanes = count // 8
    codes = packed.new_empty(count)
    _unpack_lanes(packed[: bits * lanes].view(bits, lanes), bits, codes[: 8 * lanes].view(8, lanes))
    _unpack_lanes(packed[bits * lanes :].view(-1, 1), bits, codes[8 * lanes :].view(-1, 1))
    return codes


def _pack_lanes(lanes: Tensor, bits: int, planes: Tensor) -> None:
    """Add the bits of up to eight `lanes` (lanes, m) to the zeroed byte `planes` (bytes, m)."""
    for k, lane in enumerate(lanes):
        byte, shift = divmod(k * bits, 8)
        planes[byte] |= lane << shift
        if shift + bits > 8:
            planes[byte + 1] |= lane >> (8 - shift)


def _unpack_lanes(planes: Tensor, bits: int, lanes: Tensor) -> None:
    """The inverse of `_pack_lanes`: fill `lanes` from `planes`."""
    for k, lane in enumerate(lanes):
        byte, shift = divmod(k * bits, 8)
        torch.bitwise_right_shift(planes[byte], shift, out=lane)
        if shift + bits > 8:
            lane |= planes[byte + 1] << (8 - shift)
        lane &= 2**bits - 1
