"""A stock Hugging Face checkpoint: dequantized weights in the model's dtype, configuration and tokenizer included.

Plain `AutoModelForCausalLM.from_pretrained` loads it; it has the size of the dense model without the blocks that are
dropped whole. Zeros are stored like other numbers: runtimes no longer read the formats that packed sparse weights.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evopress.core.costs import FileCosts
from evopress.core.profile import DROP, KEEP
from evopress.errors import ConfigError
from evopress.formats.about import TRANSFORMERS, VLLM, About
from evopress.formats.carried import carry, copy_companions
from evopress.formats.experts import with_stacks, without_experts
from evopress.formats.format import Content, Source
from evopress.formats.shards import (
    Entry,
    Progress,
    entry_bytes,
    frame_bytes,
    kept,
    predicted_bytes,
    write_shards,
)
from evopress.formats.staging import hidden
from evopress.formats.verification import Searched, Verification, verify_checkpoint
from evopress.models import LoadedModel
from evopress.models.routing import count_names, find_routed
from evopress.models.shorten import cut_along, new_names, shortened_config, without_blocks
from evopress.search.presets import ApplicationName


class HuggingFace:
    """Implements `Format`: holds every family, each tensor in the bytes of the dense model's."""

    name = "hf"
    holds: tuple[tuple[ApplicationName, ...], ...] = (("bits",), ("sparsity",), ("depth",), ("bits", "depth"))

    def check(self, source: Source) -> None:
        """It holds every model that could be loaded."""

    def predicted_bytes(self, source: Source, content: Content) -> int:
        """Those of the dense model's tensors, but for blocks that are dropped whole."""
        return predicted_bytes(_entries(source, content))

    def costs(self, source: Source) -> FileCosts:
        """Those of blocks that are dropped whole; ConfigError where nothing that is searched changes the size."""
        if not source.parts or len(source.sections) > 1:
            raise ConfigError("a size needs a format that stores levels packed; choose one with --target")
        stored = [kept(name, tensor) for name, tensor in stored_tensors(source.loaded.model)]
        entries = carry(stored, source.loaded, source.map)
        names = [entry.name for entry in stored] + [""] * (len(entries) - len(stored))
        sizes = [(name, entry_bytes(entry)) for name, entry in zip(names, entries, strict=True)]
        parts = part_bytes(source, sizes)
        if odd := next((unit for unit in source.parts if unit not in parts), None):
            raise ConfigError(
                f"without {odd} the files are as large as with it: only whole blocks are left out of them, where "
                "the model allows it; use --granularity block or pair"
            )
        levels = {unit: {DROP: 0, KEEP: own} for unit, own in parts.items()}
        frame = frame_bytes(sum(entry.nbytes for entry in entries))
        return FileCosts(frame + sum(own for _, own in sizes) - sum(parts.values()), levels)

    def write(self, source: Source, content: Content, out: Path, progress: Progress) -> None:
        """Tensors, configuration and tokenizer; blocks that are dropped whole are in none of them."""
        config = shortened_config(source.loaded.model.config, source.map, content.left_out)
        if content.experts:
            config = with_fewer(config, source, len(next(iter(content.experts.values()))))
        save_rest(source.loaded, out, config)
        write_shards(out, _entries(source, content), progress)

    def about(self, source: Source, content: Content) -> About:
        """Loads anywhere; which parts are stored as zeros."""
        notes = {"bits": _quantized, "sparsity": _sparse, "depth": _shallow}
        said = tuple(notes[section.application](source, content) for section in source.sections)
        return About("transformers", (TRANSFORMERS, VLLM), said)

    def verify(self, source: Source, content: Content, out: Path, searched: Searched) -> Verification:
        """Load it with transformers: the same weights in the same modules give the same bits."""
        return verify_checkpoint(source.loaded.model, out, searched, tolerance=0.0)


def part_bytes(source: Source, sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What files lack without each part that leaves out blocks: `sizes` are those of their tensors, by name."""
    known, found = list(sizes), {}
    for unit, parts in source.parts.items():
        gone = source.left_out([sublayer.name for sublayer in parts])
        if prefixes := tuple(f"{source.map.blocks}.{block}." for block in gone):
            found[unit] = sum(own for name, own in known if name.startswith(prefixes))
    return found


def _entries(source: Source, content: Content) -> list[Entry]:
    gone, model = content.left_out, source.loaded.model
    names = new_names(model.state_dict(), source.map, gone)
    entries = dense_entries(model, content.tensors, names)
    cut = cut_along(model, source.map) if gone else {}
    cuts = [without_parts(entry, cut, source.map.n_blocks, gone) for entry in entries]
    if content.experts:
        cuts = without_experts(cuts, find_routed(model, source.map), content.experts)
    moved = with_stacks(cuts, names, source.loaded)
    return carry(moved, source.loaded, source.map, gone)


def with_fewer(config: Any, source: Source, count: int) -> Any:
    """A configuration that says that layers have `count` experts."""
    found = copy.deepcopy(config)
    before = find_routed(source.loaded.model, source.map)[0].count
    for name in count_names(config, before):
        setattr(found.get_text_config(), name, count)
    return found


def without_parts(entry: Entry, cut: Mapping[str, int], count: int, gone: Collection[int]) -> Entry:
    """The entry without its parts of the blocks that are gone, if it has parts of blocks."""
    if entry.name not in cut:
        return entry
    dim = cut[entry.name]
    shape = list(entry.shape)
    shape[dim] = shape[dim] // count * (count - len(gone))
    return replace(entry, shape=tuple(shape), make=lambda: without_blocks(entry.make(), dim, count, gone))


def _quantized(source: Source, content: Content) -> str:
    return (
        "The weights are dequantized: the files are as large as the dense model's, and no faster to run. Formats that "
        "pack them come with `--target` and `evopress export --format`."
    )


def _sparse(source: Source, content: Content) -> str:
    return stored_zeros(content)


def stored_zeros(content: Content) -> str:
    """How many weights of a sparse model are zero, and that they are stored all the same."""
    units = content.levels.manifest.units
    zeros = sum(units[unit].level(level).zeros for unit, level in content.profile.items())
    weights = sum(units[unit].size for unit, _ in content.profile.items())
    return (
        f"{zeros:,} of {weights:,} weights of the compressed layers are exactly zero. "
        "They are stored like other numbers, so the files are as large as the dense model's and no faster to run: "
        "runtimes no longer read the formats that packed sparse weights."
    )


def fewer_experts(content: Content) -> str:
    """How many experts stay in each layer."""
    count = len(next(iter(content.experts.values())))
    return f"Each of the {len(content.experts)} layers of experts has {count} of them, and the router's rows of these."


def _shallow(source: Source, content: Content) -> str:
    if content.experts:
        return fewer_experts(content)
    kinds, blocks = Counter(sublayer.kind for sublayer in content.dropped), len(content.left_out)
    attention, mlp = kinds["attn"] - blocks, kinds["mlp"] - blocks
    text = f"{blocks} of the {source.map.n_blocks} blocks are left out whole."
    if attention or mlp:
        text += (
            f" Beside them, {attention} attentions and {mlp} MLPs are dropped from blocks that keep the other half: "
            "what they would add is exactly zero, but they are stored and computed as ever."
        )
    return text


def dense_entries(
    model: Any, compressed: Mapping[str, Callable[[torch.dtype], torch.Tensor]], names: Container[str] | None = None
) -> list[Entry]:
    """Each stored tensor of a model; `compressed` maps the names of those that differ to what makes them.

    With `names` those alone, shared tensors under the first of their names that is among them.
    """
    return [
        Entry(name, tensor.dtype, tuple(tensor.shape), partial(compressed[name], tensor.dtype))
        if name in compressed
        else kept(name, tensor)
        for name, tensor in stored_tensors(model, names)
    ]


def stored_tensors(model: Any, names: Container[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, each shared tensor once, under the first of `names` (None: of all names)."""
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        if names is not None and name not in names:
            continue
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        yield name, tensor


def save_rest(
    loaded: LoadedModel, directory: Path, config: Any | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Configuration, hidden until the export is whole, generation settings and tokenizer. Call it before weights.

    `config` is another one than the model's, `more` is put into its file as it is.
    """
    config = copy.copy(loaded.model.config if config is None else config)
    config.architectures = [type(loaded.model).__name__]
    config.save_pretrained(directory)
    file = directory / "config.json"
    content = readable_by_older(json.loads(file.read_text(encoding="utf-8")), _tied(loaded.model)) | dict(more or {})
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(file, hidden(file))
    _save_generation(loaded, directory)
    loaded.tokenizer.save_pretrained(directory)
    copy_companions(loaded, directory)


def readable_by_older(content: dict[str, Any], tied: bool) -> dict[str, Any]:
    """A configuration with what readers before transformers 5 look for: rope fields of their names, in all parts.

    `tied` says whether head and embedding are one weight: a configuration that says so of two loses one of them.

    >>> found = readable_by_older({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}}, True)
    >>> found["rope_theta"], found["rope_scaling"]
    (1000000.0, {'rope_type': 'linear', 'factor': 4.0})
    """
    found = {
        name: readable_by_older(own, tied) if name.endswith("_config") and isinstance(own, dict) else own
        for name, own in content.items()
    }
    rope = content.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(rope.get("rope_theta"), int | float):
        scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
        found["rope_theta"] = rope["rope_theta"]
        if "partial_rotary_factor" in rope:
            found |= dict.fromkeys(("partial_rotary_factor", "rotary_pct"), rope["partial_rotary_factor"])
        if scaling.get("rope_type", "default") != "default":
            found["rope_scaling"] = scaling
    if not tied and found.get("tie_word_embeddings"):
        found["tie_word_embeddings"] = False
    return found


def _tied(model: Any) -> bool:
    """Whether the head multiplies with the embedding's own weight."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is None or getattr(head, "weight", None) is getattr(embedding, "weight", None)


def _save_generation(loaded: LoadedModel, directory: Path) -> None:
    """The source's own settings of generation, where it has a file of them: some versions refuse to write others'."""
    name = "generation_config.json"
    if loaded.files is not None and (loaded.files.directory / name).is_file():
        shutil.copyfile(loaded.files.directory / name, directory / name)
    elif loaded.model.can_generate():
        loaded.model.generation_config.save_pretrained(directory)
