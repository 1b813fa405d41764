"""What llama.cpp itself makes of our GGUF files, and what its quantizer writes, on models made in code: minutes.

    python scripts/check_llama_cpp.py LIBRARIES --out benchmarks/results/llama-cpp.md

LIBRARIES is a directory with a prebuilt libllama (see scripts/libllama.py). Five questions, each a table:

* does llama-quantize choose the types that `evopress.levels.mixes` says it chooses, and are its bytes ours;
* are the bytes of every type that can be a level ours, with an importance matrix;
* does it take our --tensor-type-file and write the file that we write;
* does every architecture compute in llama.cpp what it computes in transformers, mixtures of experts too;
* does it still without some experts, and without blocks, attentions and MLPs.

llama.cpp keeps keys and values in fp16 and multiplies quantized weights with activations of 8 bits; hence the
tolerances: 0.02 of the logits' spread for fp32 files, 0.1 for quantized ones (random weights forgive less than
trained ones). A layout that is wrong is off by 1 or more.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from libllama import FILE_TYPES, Library, Llama

from evopress.core.ggml_types import GGML_TYPES, fitting_type
from evopress.core.profile import DROP, KEEP
from evopress.errors import UnsupportedModel
from evopress.formats.gguf import GgufPlan, export_gguf, gguf_names, plan_gguf
from evopress.formats.gguf_depth import drop_experts, drop_sublayers
from evopress.levels.ggml import Ggml, pack_ggml
from evopress.levels.mixes import mix_types
from evopress.levels.tensor_types import write_tensor_types
from evopress.models import LoadedModel, describe, find_sublayers
from evopress.models.assemble import Assembly
from evopress.models.bypass import bypass_slots
from evopress.models.experts import split_experts
from evopress.models.routing import expert_slots, find_routed
from evopress.testing import gguf_config, merging_tokenizer, random_model

VOCABULARY = 320
EXACT, QUANTIZED = 0.02, 0.1
PROMPTS, NEW = 8, 32
WINDOWED = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "gemma2": WINDOWED,
    "gemma3_text": WINDOWED,
    "phi3": {},
}
EXPERTS = {"moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 128},
    "qwen3_moe": EXPERTS | {"head_dim": 64, "norm_topk_prob": True},
}


def main() -> None:
    """Answer all questions; the exit code is 1 when an answer is no."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables")
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's log")
    options = parser.parse_args()
    library = Library(options.libraries, verbose=options.verbose)
    lines, wrong = [], 0
    with TemporaryDirectory() as folder:
        for title, head, rows in (
            ("Mixes", "model | types chosen as we say | tensors with our bytes", mixes(library, Path(folder))),
            ("Types", "type, with importance | tensors with our bytes", types(library, Path(folder))),
            ("Files of tensor types", "model | tensors equal to ours", type_files(library, Path(folder))),
            (
                "Architectures",
                "model | difference of logits (root mean square) / their spread",
                architectures(library, Path(folder)),
            ),
            (
                "Mixtures",
                "model | difference of logits (root mean square) / their spread",
                mixtures(library, Path(folder)),
            ),
            (
                "Dropped experts",
                "model | difference of logits (root mean square) / their spread; greedy tokens",
                experts(library, Path(folder)),
            ),
            ("Depth", "model | difference of logits (root mean square) / their spread", depth(library, Path(folder))),
        ):
            columns = head.count("|") + 2
            lines += ["", f"## {title}", "", f"| {head} | |", "|" + " --- |" * columns]
            for name, found, fine in rows:
                wrong += not fine
                lines.append(f"| {name} | {found} | {'yes' if fine else '**no**'} |")
                sys.stdout.write(lines[-1] + "\n")
                sys.stdout.flush()
    if options.out:
        command = "python scripts/check_llama_cpp.py LIBRARIES"
        options.out.write_text(f"# llama.cpp and our files\n\nMade by `{command}`.\n" + "\n".join(lines) + "\n")
    sys.exit(bool(wrong))


Row = tuple[str, str, bool]


def mixes(library: Library, folder: Path) -> Iterator[Row]:
    """Each mix on Llamas of several depths, widths and numbers of heads, on a tied head, and on Qwen2, Gemma2, Phi3."""
    shapes: list[tuple[str, int, dict[str, Any]]] = [
        ("llama", 9, {"num_key_value_heads": 4}),
        ("llama", 17, {"num_key_value_heads": 1}),
        ("llama", 32, {"num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 256}),
        ("llama", 4, {"tie_word_embeddings": True}),
        ("llama", 80, {"hidden_size": 64, "intermediate_size": 256}),
        ("qwen2", 9, {}),
        ("gemma2", 9, WINDOWED),
        ("phi3", 9, {}),
    ]
    for architecture, blocks, settings in shapes:
        loaded = pico(architecture, blocks, **settings)
        names, config = gguf_names(loaded), loaded.model.config
        file = folder / "dense.gguf"
        export_gguf(file, plan_gguf(loaded, {}), {})
        widths = {names[name]: tensor.shape[1] for name, tensor in matrices(loaded)}
        for mix in FILE_TYPES:
            library.quantize(file, folder / "mix.gguf", mix)
            written = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "mix.gguf").tensors}
            heads, pairs = config.num_attention_heads, config.num_key_value_heads
            ours = mix_types(mix, widths, blocks=blocks, heads=heads, key_heads=pairs)
            theirs = {name: written[name].tensor_type.name for name in ours}
            right = sum(ours[name] == theirs[name] for name in ours)
            packs = {name: pack_ggml(tensor, theirs[names[name]]) for name, tensor in matrices(loaded)}
            plan = plan_gguf(loaded, {name: pack.type for name, pack in packs.items()})
            same = equal_tensors(plan, packs, written, folder)
            what = f"{architecture}, {blocks} blocks, width {config.hidden_size}, {heads}/{pairs} heads, {mix}"
            yield what, f"{right} of {len(ours)} | {same} of {len(ours)}", right == same == len(ours)


def equal_tensors(plan: GgufPlan, packs: dict[str, Ggml], theirs: dict[str, Any], folder: Path) -> int:
    """How many of the packed tensors our file of the plan shares with llama.cpp's, byte for byte."""
    export_gguf(folder / "ours.gguf", plan, {name: (lambda own=pack: own) for name, pack in packs.items()})
    names = {tensor.name for tensor in plan.tensors if tensor.parameter in packs}
    ours = gguf.GGUFReader(folder / "ours.gguf").tensors
    return sum(np.array_equal(own.data, theirs[own.name].data) for own in ours if own.name in names)


def types(library: Library, folder: Path) -> Iterator[Row]:
    """Every type that can be a level, each with an importance matrix, on all matrices of a Llama."""
    loaded, generator = pico("llama", 1), np.random.default_rng(0)
    names = gguf_names(loaded)
    weights = {name: generator.random(tensor.shape[1], dtype=np.float32) + 0.01 for name, tensor in matrices(loaded)}
    export_gguf(folder / "dense.gguf", plan_gguf(loaded, {}), {})
    for kind in GGML_TYPES:
        rules = ((".*", int(gguf.GGMLQuantizationType[kind])),)
        own = {names[name]: values for name, values in weights.items()}
        library.quantize(folder / "dense.gguf", folder / "theirs.gguf", "Q4_K_M", rules, own)
        packs = {name: pack_ggml(tensor, kind, torch.from_numpy(weights[name])) for name, tensor in matrices(loaded)}
        theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "theirs.gguf").tensors}
        same = equal_tensors(plan_gguf(loaded, dict.fromkeys(packs, kind)), packs, theirs, folder)
        yield kind, f"{same} of {len(packs)}", same == len(packs)


def type_files(library: Library, folder: Path) -> Iterator[Row]:
    """A random profile: its --tensor-type-file given to llama.cpp, and the file that we write."""
    free = [name for name, kind in GGML_TYPES.items() if not kind.needs_importance and kind.block > 1]
    for architecture in ("llama", "qwen3", "gemma3_text"):
        loaded = pico(architecture, 3)
        names, rng = gguf_names(loaded), random.Random(1)
        types = {name: fitting_type(rng.choice(free), tensor.shape[1]) for name, tensor in matrices(loaded)}
        export_gguf(folder / "dense.gguf", plan_gguf(loaded, {}), {})
        words = [line.split("=") for line in write_tensor_types(types, names).splitlines()]
        rules = tuple((pattern, int(gguf.GGMLQuantizationType[kind.upper()])) for pattern, kind in words)
        library.quantize(folder / "dense.gguf", folder / "theirs.gguf", "Q4_K_M", rules)
        packs = {name: pack_ggml(tensor, types[name]) for name, tensor in matrices(loaded)}
        theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "theirs.gguf").tensors}
        same = equal_tensors(plan_gguf(loaded, types), packs, theirs, folder)
        yield f"{architecture}, {len(types)} matrices", f"{same} of {len(types)}", same == len(types)


def architectures(library: Library, folder: Path) -> Iterator[Row]:
    """All architectures, in fp32 and with a random mix of types, against transformers with the same weights."""
    for architecture in ARCHITECTURES:
        loaded, rng = pico(architecture, 4), random.Random(2)
        yield compared(f"{architecture}, fp32", library, folder, plan_gguf(loaded, {}), {}, loaded.model, EXACT)
        kinds = {
            name: fitting_type(rng.choice(["Q4_K", "Q5_K", "Q6_K", "Q8_0"]), tensor.shape[1])
            for name, tensor in matrices(loaded)
        }
        packs = {name: pack_ggml(tensor, kinds[name]) for name, tensor in matrices(loaded)}
        with torch.no_grad():
            for name, pack in packs.items():
                loaded.model.get_parameter(name).copy_(pack.dequantize())
        plan = plan_gguf(loaded, kinds)
        yield compared(f"{architecture}, Q4_K to Q8_0", library, folder, plan, packs, loaded.model, QUANTIZED)


def mixtures(library: Library, folder: Path) -> Iterator[Row]:
    """The same of mixtures, with one type for each matrix of all experts of a layer.

    A router of random weights chooses others for the least rounding, of keys and values in fp16 too. So tokens have all
    experts where numbers have to be exact, and where they have two of eight the tolerance is the wider one.
    """
    for architecture in MIXTURES:
        for title, settings, limit in (("2 of 8", {}, QUANTIZED), ("all", {"num_experts_per_tok": 8}, EXACT)):
            loaded, plain = pico(architecture, 4, **settings), f"{architecture}, fp32, {title} experts"
            yield compared(plain, library, folder, plan_gguf(loaded, {}), {}, loaded.model, limit)
        rng, kinds, packs = random.Random(2), dict[str, str](), {}
        for linear in describe(loaded.model).linears:
            shared = f"{linear.experts}.{linear.role.rpartition('.')[2]}" if linear.experts else linear.name
            kind = kinds.setdefault(shared, rng.choice(["Q4_K", "Q5_K", "Q6_K", "Q8_0"]))
            tensor = loaded.model.get_parameter(linear.view.parameter)
            pack = pack_ggml(tensor.detach(), fitting_type(kind, tensor.shape[1]))
            packs[linear.view.parameter] = pack
            with torch.no_grad():
                tensor.copy_(pack.dequantize())
        plan = plan_gguf(loaded, {name: pack.type for name, pack in packs.items()})
        title = f"{architecture}, Q4_K to Q8_0, all experts"
        yield compared(title, library, folder, plan, packs, loaded.model, QUANTIZED)


def experts(library: Library, folder: Path) -> Iterator[Row]:
    """Mixtures without two of their eight experts, others in every block; and greedy text of the same file."""
    for architecture in MIXTURES:
        for title, settings, limit in (("2", {}, QUANTIZED), ("all", {"num_experts_per_tok": 6}, EXACT)):
            loaded, rng = pico(architecture, 4, **settings), random.Random(3)
            mapped = describe(loaded.model)
            layers = find_routed(loaded.model, mapped)
            kept = {layer.block: tuple(sorted(rng.sample(range(layer.count), 6))) for layer in layers}
            plan = drop_experts(plan_gguf(loaded, {}), kept)
            with Assembly(expert_slots(loaded.model, layers, mapped.n_blocks)) as assembly:
                for block, numbers in kept.items():
                    assembly.use(block, tuple(KEEP if number in numbers else DROP for number in range(8)))
                name = f"{architecture}, fp32, 6 of 8 experts, of which a token has {title}"
                name, found, fine = compared(name, library, folder, plan, {}, loaded.model, limit)
                same = equal_tokens(Llama(library, folder / "model.gguf"), loaded.model)
            yield name, f"{found}; {same} of {PROMPTS * NEW} equal", fine


def equal_tokens(llama: Llama, model: Any) -> int:
    """How many tokens of llama.cpp's greedy text are those that the live model would choose there."""
    same = 0
    for prompt in range(PROMPTS):
        tokens = [(7 + prompt) * index % VOCABULARY for index in range(1, 9)]
        start = len(tokens)
        for _ in range(NEW):
            tokens.append(int(llama.logits(tokens)[-1].argmax()))
        with torch.no_grad():
            ours = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].argmax(-1).tolist()
        same += sum(own == token for own, token in zip(ours[start - 1 :], tokens[start:], strict=False))
    return same


def depth(library: Library, folder: Path) -> Iterator[Row]:
    """Blocks and halves of blocks dropped at random; what llama.cpp cannot compute is refused."""
    for architecture in ARCHITECTURES:
        for halves in (False, True):
            for seed in range(3):
                loaded, rng = pico(architecture, 6), random.Random(seed)
                gone = {kind: set(rng.sample(range(6), 2)) for kind in ("attn", "mlp")}
                if not halves:
                    gone["mlp"] = gone["attn"]
                elif seed:
                    gone["attn"].discard(0)
                title = f"{architecture} without attention {sorted(gone['attn'])}, MLP {sorted(gone['mlp'])}"
                try:
                    plan = drop_sublayers(plan_gguf(loaded, {}), attention=gone["attn"], mlp=gone["mlp"])
                except UnsupportedModel as error:
                    first = min({*range(6)} - (gone["attn"] & gone["mlp"]))
                    yield title, f"refused: {str(error).partition(',')[0]}", first in gone["attn"]
                    continue
                bypass(loaded.model, gone)
                yield compared(title, library, folder, plan, {}, loaded.model, EXACT)


def bypass(model: Any, gone: dict[str, set[int]]) -> None:
    """Drop the sub-layers in the live model."""
    sublayers = find_sublayers(model, describe(model))
    for slot in {slot.name: slot for slots in bypass_slots(model, sublayers, "sublayer") for slot in slots}.values():
        block, kind = slot.name.split(".")[-2:]
        slot.apply(DROP if int(block) in gone[kind] else KEEP)


def compared(
    title: str, library: Library, folder: Path, plan: GgufPlan, packs: dict[str, Ggml], model: Any, limit: float
) -> Row:
    """The difference of logits at 40 positions, root mean square, between llama.cpp on the file and the live model."""
    export_gguf(folder / "model.gguf", plan, {name: (lambda own=pack: own) for name, pack in packs.items()})
    tokens = [7 * index % VOCABULARY for index in range(1, 41)]
    theirs = Llama(library, folder / "model.gguf").logits(tokens)
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
    difference = float(np.sqrt(np.square(ours - theirs).mean()) / ours.std())
    return title, f"{difference:.4f}", difference < limit


def matrices(loaded: LoadedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every stored weight matrix; a tied head is the embeddings."""
    tied = loaded.model.config.tie_word_embeddings
    for name, tensor in loaded.model.named_parameters():
        if tensor.ndim == 2 and not (tied and name == "lm_head.weight"):
            yield name, tensor.detach()


def pico(architecture: str, blocks: int, **settings: Any) -> LoadedModel:
    """A random model of width 256 with a tokenizer that llama.cpp can read."""
    known = ARCHITECTURES | MIXTURES
    model = split_experts(random_model(gguf_config(architecture, blocks=blocks, **known[architecture] | settings)))
    with torch.no_grad():  # weights of unit gain: with larger ones rounding grows from block to block
        for tensor in model.parameters():
            tensor.mul_(0.4 if tensor.ndim == 2 else 1.0)
    # A name with phi3 in it makes llama.cpp look for Phi 3's tokens.
    return LoadedModel(model, merging_tokenizer(), "pico", False)


if __name__ == "__main__":
    main()
