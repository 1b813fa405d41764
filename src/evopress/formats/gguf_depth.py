"""A plan of a GGUF file without some attentions, MLPs or experts: blocks renumber, halves of blocks need a layout.

A pure rewriting of the plan, so it works for Hugging Face models and GGUF files alike and costs nothing. llama.cpp has
one layout whose blocks may lack a half, `deci` (Llama's own computation with widths for each block), which serves the
models that llama.cpp computes as `llama`. Two traps of it were found by running it: a feed-forward width of 0 beside a
kept attention silently loses the attention, so such a block keeps an MLP of 32 zeros; and the first block must keep its
attention, since its head width is taken for all. In other architectures a dropped half stays with an output of zeros:
exact, but no faster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from evopress.core.costs import FileCosts
from evopress.core.ggml_types import ALIGNMENT, GGML_TYPES, padded
from evopress.core.profile import DROP, KEEP
from evopress.errors import ConfigError, UnsupportedModel
from evopress.formats.gguf import GgufPlan, StoredTensor, announcement_bytes
from evopress.formats.gguf_metadata import KeyValue, header_bytes
from evopress.levels.ggml import pack_ggml
from evopress.models import SubLayer

STUB = 32  # the width of an MLP that does nothing: the least that ggml's blocks of 32 divide
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_ROUTED = re.compile(r"ffn_(gate|up|down)_exps\.weight|ffn_gate_inp\.weight")
_HALVES = {"attn_": "attn", "post_attention_norm": "attn", "ffn_": "mlp", "post_ffw_norm": "mlp"}
_WRITERS = {"attn": "attn_output", "mlp": "ffn_down"}
_LISTS = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")  # deci: one number for each block
_PATTERN = "attention.sliding_window_pattern"
_PERIODS = {"gemma2": 2, "gemma3": 6}  # every so many-th layer looks back without limit, where a file does not say
_SCALED = {"gemma2": 46, "gemma3": 62}  # with so many blocks llama.cpp scales attention otherwise

Gone = Mapping[str, Collection[int]]
"""attn or mlp -> the blocks that lack it, of which none lacks both."""


def drop_sublayers(plan: GgufPlan, *, attention: Collection[int], mlp: Collection[int]) -> GgufPlan:
    """The plan without the attention, and without the MLP, of the blocks with these numbers.

    UnsupportedModel when llama.cpp could not compute what remains: a first block without attention in the `deci`
    layout, or a number of blocks that changes how a Gemma scales its attention.
    """
    blocks = range(_number(plan, "block_count"))
    kept = [block for block in blocks if block not in attention or block not in mlp]
    if len(kept) != len(blocks):
        plan = _renumbered(plan, kept)
    gone = {
        "attn": {new for new, old in enumerate(kept) if old in attention},
        "mlp": {new for new, old in enumerate(kept) if old in mlp},
    }
    if not any(gone.values()):
        return plan
    return _as_deci(plan, gone) if plan.architecture == "llama" else _silenced(plan, gone)


def drop_experts(plan: GgufPlan, kept: Mapping[int, tuple[int, ...]]) -> GgufPlan:
    """The plan with those experts alone whose numbers are `kept` in each block, as many in all.

    Their stacks and the router's rows lose the others, and the number of experts is the new one.
    """
    count = len(next(iter(kept.values())))
    changes = {"expert_count": KeyValue("", count, "UINT32")}
    tensors = []
    for tensor in plan.tensors:
        found = _BLOCK.fullmatch(tensor.name)
        routed = found is not None and _ROUTED.fullmatch(found[2]) and int(found[1]) in kept
        tensors.append(_selected(tensor, kept[int(found[1])]) if found and routed else tensor)
    return replace(plan, metadata=tuple(_changed(plan, changes)), tensors=tuple(tensors))


def _selected(tensor: StoredTensor, numbers: tuple[int, ...]) -> StoredTensor:
    """Some of a tensor's parts along its first dimension."""
    make, count = tensor.make, tensor.shape[0]
    assert make is not None  # experts have no levels where some are dropped
    return replace(tensor, shape=(len(numbers), *tensor.shape[1:]), make=lambda: make().view(count, -1)[list(numbers)])


def depth_costs(plan: GgufPlan, units: Mapping[str, Sequence[SubLayer]]) -> FileCosts:
    """What the files of `drop_sublayers` take at most, by units of sub-layers that are dropped as one.

    An attention or MLP alone is left out in the layout `deci`, where a dropped MLP counts as the one that llama.cpp
    wants beside a kept attention. ConfigError for such units in another architecture.
    """
    blocks, halves = _number(plan, "block_count"), any(len(unit) == 1 for unit in units.values())
    if halves and plan.architecture != "llama":
        raise ConfigError(
            f"files of {plan.architecture} hold attention and MLP of every block that is in them, so only whole blocks "
            "make them smaller; use --granularity block or pair"
        )
    sizes: Counter[tuple[str, int] | None] = Counter()
    for tensor in plan.tensors:
        sizes[_half(tensor.name)] += _most_bytes(tensor, blocks)
    stub = sum(_most_bytes(tensor, blocks) for tensor in _stub(plan, 0)) if halves else 0
    levels = {}
    for name, unit in units.items():
        kinds = {"attn", "mlp", ""} if not halves else {unit[0].kind}
        own = {(kind, sublayer.block) for kind in kinds for sublayer in unit}
        levels[name] = {DROP: stub if kinds == {"mlp"} else 0, KEEP: sum(sizes.pop(half, 0) for half in own)}
    header = header_bytes([*plan.metadata, *_possible_lists(plan, blocks, halves)])
    return FileCosts(header + ALIGNMENT + sizes.total(), levels)  # what no unit took is always there


def _possible_lists(plan: GgufPlan, blocks: int, halves: bool) -> list[KeyValue]:
    """What the header of a file without some parts may say of each block."""
    if halves:
        return [KeyValue(f"{plan.architecture}.{key}", [0] * blocks, "ARRAY", "INT32") for key in _LISTS]
    if _entry(plan, "attention.sliding_window") is None:
        return []
    return [KeyValue(f"{plan.architecture}.{_PATTERN}", [False] * blocks, "ARRAY", "BOOL")]


def _most_bytes(tensor: StoredTensor, blocks: int) -> int:
    """What a tensor takes in a file, announced under the longest number that a block can have."""
    digits = len(str(blocks - 1))
    longest = replace(tensor, name=_BLOCK.sub(rf"blk.{'9' * digits}.\2", tensor.name))
    return announcement_bytes(longest) + padded(tensor.bytes)


def _renumbered(plan: GgufPlan, kept: list[int]) -> GgufPlan:
    """Only the blocks `kept`, numbered from 0."""
    before, scaled = _number(plan, "block_count"), _SCALED.get(plan.architecture)
    if scaled in (before, len(kept)):
        raise UnsupportedModel(
            f"llama.cpp scales the attention of a {plan.architecture} of {scaled} blocks otherwise than that of one "
            f"with more or fewer; {before} blocks cannot become {len(kept)}"
        )
    numbers = {old: new for new, old in enumerate(kept)}
    tensors = []
    for tensor in plan.tensors:
        found = _BLOCK.fullmatch(tensor.name)
        if found is None:
            tensors.append(tensor)
        elif int(found[1]) in numbers:
            tensors.append(replace(tensor, name=f"blk.{numbers[int(found[1])]}.{found[2]}"))
    changes = {"block_count": KeyValue("", len(kept), "UINT32")} | _windows(plan, kept)
    return replace(plan, metadata=tuple(_changed(plan, changes)), tensors=tuple(tensors))


def _windows(plan: GgufPlan, kept: list[int]) -> dict[str, KeyValue]:
    """Which of the kept blocks look back over the window only, said for each where no period says it any more."""
    entry = _entry(plan, _PATTERN)
    period = entry.value if entry is not None else _PERIODS.get(plan.architecture)
    if period is None or (entry is None and _entry(plan, "attention.sliding_window") is None):
        return {}
    local = list(period) if isinstance(period, list) else [(b + 1) % period != 0 for b in range(max(kept) + 1)]
    wanted = [bool(local[block]) for block in kept]
    if not isinstance(period, list) and wanted == [(block + 1) % period != 0 for block in range(len(kept))]:
        return {}
    return {_PATTERN: KeyValue("", wanted, "ARRAY", "BOOL")}


def _as_deci(plan: GgufPlan, gone: Gone) -> GgufPlan:
    """Llama's blocks in llama.cpp's layout with widths for each block."""
    if 0 in gone["attn"]:
        raise UnsupportedModel(
            "the first block that remains has no attention, which llama.cpp's deci layout needs there: keep the "
            "attention of the first block (--protected), or drop that block as a whole"
        )
    blocks, heads = range(_number(plan, "block_count")), _number(plan, "attention.head_count")
    narrow = _entry(plan, "attention.head_count_kv")
    pairs, width = heads if narrow is None else narrow.value, _number(plan, "feed_forward_length")
    lists = (
        [0 if block in gone["attn"] else heads for block in blocks],
        [0 if block in gone["attn"] else pairs for block in blocks],
        [STUB if block in gone["mlp"] else width for block in blocks],
    )
    halves = {(kind, block) for kind, own in gone.items() for block in own}
    tensors = [tensor for tensor in plan.tensors if _half(tensor.name) not in halves]
    for block in sorted(gone["mlp"]):
        tensors += _stub(plan, block)
    changes = {key: KeyValue("", values, "ARRAY", "INT32") for key, values in zip(_LISTS, lists, strict=True)}
    metadata = [_renamed(entry, "llama.", "deci.") for entry in _changed(plan, changes)]
    return GgufPlan("deci", tuple(metadata), tuple(tensors))


def _stub(plan: GgufPlan, block: int) -> Iterator[StoredTensor]:
    """The tensors of an MLP that adds nothing: all zeros, and the norm that llama.cpp asks for."""
    width = _number(plan, "embedding_length")
    for name, shape in (("ffn_gate", (STUB, width)), ("ffn_up", (STUB, width)), ("ffn_down", (width, STUB))):
        yield _zeros(f"blk.{block}.{name}.weight", "", shape)
    yield next(tensor for tensor in plan.tensors if tensor.name == f"blk.{block}.ffn_norm.weight")


def _silenced(plan: GgufPlan, gone: Gone) -> GgufPlan:
    """Zeros for the matrices and biases that write a dropped half's output."""
    names = {f"blk.{block}.{_WRITERS[kind]}" for kind, blocks in gone.items() for block in blocks}
    tensors = [
        _zeros(tensor.name, tensor.parameter, tensor.shape) if tensor.name.rpartition(".")[0] in names else tensor
        for tensor in plan.tensors
    ]
    return replace(plan, tensors=tuple(tensors))


def _zeros(name: str, parameter: str, shape: tuple[int, ...]) -> StoredTensor:
    """A tensor of zeros in the smallest plain type that its rows allow; vectors are fp32."""
    kind = "F32" if len(shape) == 1 else "Q4_0" if shape[-1] % GGML_TYPES["Q4_0"].block == 0 else "F16"
    rows = shape if len(shape) > 1 else (1, *shape)
    return StoredTensor(name, kind, shape, parameter, make=lambda: pack_ggml(torch.zeros(rows), kind).data)


def _half(name: str) -> tuple[str, int] | None:
    """(attn or mlp, block) of a tensor of a block."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None
    kind = next((kind for start, kind in _HALVES.items() if found[2].startswith(start)), "")
    return kind, int(found[1])


def _entry(plan: GgufPlan, key: str) -> KeyValue | None:
    name = f"{plan.architecture}.{key}"
    return next((entry for entry in plan.metadata if entry.key == name), None)


def _number(plan: GgufPlan, key: str) -> int:
    """One number for all blocks; UnsupportedModel where the source file has one for each, or none."""
    entry = _entry(plan, key)
    if entry is None or not isinstance(entry.value, int):
        found: Any = "nothing" if entry is None else entry.value
        raise UnsupportedModel(f"the file says {found} of {plan.architecture}.{key}; only one number for all is known")
    return entry.value


def _changed(plan: GgufPlan, changes: Mapping[str, KeyValue]) -> Iterator[KeyValue]:
    """The metadata with other values for some of the architecture's keys, new ones at the end."""
    left = {f"{plan.architecture}.{key}": entry for key, entry in changes.items()}
    for entry in plan.metadata:
        yield replace(left.pop(entry.key), key=entry.key) if entry.key in left else entry
    yield from (replace(entry, key=key) for key, entry in left.items())


def _renamed(entry: KeyValue, old: str, new: str) -> KeyValue:
    if entry.key == "general.architecture":
        return replace(entry, value="deci")
    return replace(entry, key=new + entry.key.removeprefix(old)) if entry.key.startswith(old) else entry
