"""A searched GGUF file in llama.cpp itself: logits, greedy text and perplexity beside the searched model's.

    python scripts/check_llama_cpp_run.py LIBRARIES runs/gguf --out benchmarks/results/llama-cpp-smollm2.md

LIBRARIES is a directory with a prebuilt libllama (see scripts/libllama.py), the run one with `--target llamacpp`. The
searched model is the run's own, assembled from its database in fp32; it is compared in another process than the search
was, on the run's held-out text. With `--mixes` llama.cpp's quantizer also makes its mixes of the run's model, if that
is a GGUF file, and types and bytes are held against ours.

llama.cpp multiplies quantized weights with activations that it rounds to 8 bits in blocks of 32, and keeps keys and
values in fp16, so logits agree to about a hundredth of their spread and never exactly. What must hold: perplexities
within 1 %, a mean KL between the two below 0.01, and the same greedy text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from libllama import FILE_TYPES, Library, Llama

from evopress.applications import QuantizeGgml
from evopress.compress.ggml import pack_ggml
from evopress.config import Config
from evopress.export.gguf import gguf_names
from evopress.export.gguf_format import FILE
from evopress.export.mixes import mix_types
from evopress.models.load import gguf_file
from evopress.models.weights import weight
from evopress.observer import Observer
from evopress.records import read_profile
from evopress.run import RunDirectory, read_run
from evopress.workspace import Workspace

PROMPT = "The capital of France is"
NEW = 24


def main() -> None:
    """Compare and print; the exit code is 1 when something that must hold does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=2048, help="of the held-out text")
    parser.add_argument("--mixes", nargs="*", default=[], choices=list(FILE_TYPES))
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    options = parser.parse_args()
    library, workspace = Library(options.libraries), in_fp32(options.run)
    rows = [*compared(library, workspace, options.tokens)]
    for mix in options.mixes:
        rows.append(mixed(library, workspace, mix))
    text = "| what | found | holds |\n| --- | --- | --- |\n"
    text += "".join(f"| {what} | {found} | {'yes' if fine else '**no**'} |\n" for what, found, fine in rows)
    sys.stdout.write(text)
    if options.out:
        command = f"python scripts/check_llama_cpp_run.py LIBRARIES RUN --tokens {options.tokens}"
        command += " --mixes " + " ".join(options.mixes) if options.mixes else ""
        options.out.write_text(f"# A searched GGUF file in llama.cpp\n\nMade by `{command}`.\n\n{text}")
    sys.exit(any(not fine for _, _, fine in rows))


Row = tuple[str, str, bool]


def in_fp32(directory: Path) -> Workspace:
    """The run's workspace with the model in fp32, so that only llama.cpp rounds."""
    run = read_run(directory)
    plain: Config = run.config.model_copy(update={"model": run.config.model.model_copy(update={"dtype": "float32"})})
    return Workspace(RunDirectory(run.path, plain), Observer())


def compared(library: Library, workspace: Workspace, tokens: int) -> list[Row]:
    """Logits, perplexity and greedy text of the searched model, here and in llama.cpp."""
    profile, file = read_profile(workspace.run.profile), workspace.run.export / FILE
    llama, tokenizer = Llama(library, file), workspace.loaded.tokenizer
    sequences = workspace.splits.heldout.sequences
    sequences = sequences[: max(1, tokens // len(sequences[0]))]
    with workspace.assembled(profile) as model, torch.no_grad():
        sums = np.sum([pair_scores(model, llama, ids) for ids in sequences], axis=0)
        ours = greedy(lambda ids: model(torch.tensor([ids])).logits[0, -1].numpy(), tokenizer.encode(PROMPT))
    theirs = greedy(lambda ids: llama.logits(ids)[-1], llama.tokenize(PROMPT, special=True))
    count, here, there, kl, same = sums
    perplexities = np.exp([here / count, there / count])
    ratio = float(perplexities[1] / perplexities[0] - 1)
    text = tokenizer.decode(ours[-NEW:])
    predicted = workspace.application.sizes(profile)["bytes"]
    return [
        ("bytes of the file, predicted", f"{file.stat().st_size}, {predicted}", file.stat().st_size == predicted),
        (
            f"perplexity of {int(count)} held-out tokens, here and in llama.cpp",
            f"{perplexities[0]:.4f}, {perplexities[1]:.4f} ({ratio:+.2%})",
            abs(ratio) < 0.01,
        ),
        ("mean KL from here to llama.cpp", f"{kl / count:.5f}", kl / count < 0.01),
        ("likeliest token the same", f"{same / count:.1%}", same / count > 0.95),
        (f"greedy text of {NEW} tokens the same", repr(text), ours == theirs),
    ]


def pair_scores(model: Any, llama: Llama, ids: torch.Tensor) -> tuple[float, ...]:
    """(tokens, negative log likelihoods here and there, KL, equal likeliest tokens), summed over a sequence."""
    here = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
    there = torch.from_numpy(llama.logits(ids.tolist())[:-1]).double().log_softmax(-1)
    targets = ids[1:, None]
    kl = (here.exp() * (here - there)).sum()
    same = (here.argmax(-1) == there.argmax(-1)).sum()
    likelihoods = (-own.gather(-1, targets).sum() for own in (here, there))
    return (len(targets), *map(float, likelihoods), float(kl), float(same))


def greedy(logits: Any, ids: list[int]) -> list[int]:
    """The ids and NEW more, each the likeliest."""
    ids = list(ids)
    for _ in range(NEW):
        ids.append(int(np.argmax(logits(ids))))
    return ids


def mixed(library: Library, workspace: Workspace, mix: str) -> Row:
    """llama.cpp's own mix of the run's model: whether its types and bytes are ours."""
    source = gguf_file(workspace.loaded)
    if source is None:
        raise SystemExit("--mixes needs a run on a GGUF file")
    assert isinstance(workspace.application, QuantizeGgml)
    names, config = gguf_names(workspace.loaded), workspace.loaded.model.config
    linears = {names[linear.view.parameter]: linear for linear in workspace.map.linears}
    ours = mix_types(
        mix,
        {name: linear.view.shape[1] for name, linear in linears.items()},
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
    )
    types = same = compared = 0
    with TemporaryDirectory() as folder:
        library.quantize(source, Path(folder) / FILE, mix)
        written = {tensor.name: tensor for tensor in gguf.GGUFReader(Path(folder) / FILE).tensors}
        for name, linear in linears.items():
            types += written[name].tensor_type.name == ours[name]
            if "attn_q" in name or "attn_k" in name:
                continue  # whose rows are in another order there
            packed = pack_ggml(weight(workspace.loaded.model, linear.view), ours[name])
            compared += 1
            same += np.array_equal(packed.data.numpy().ravel(), written[name].data.view(np.uint8).ravel())
    found = f"{types} of {len(ours)} types, bytes of {same} of {compared} matrices that keep their order of rows"
    return f"llama-quantize's {mix} of the model", found, types == len(ours) and same == compared


if __name__ == "__main__":
    main()
