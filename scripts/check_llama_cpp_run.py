"""A searched GGUF file in llama.cpp itself: logits, greedy text and perplexity beside the searched model's.

    python scripts/check_llama_cpp_run.py LIBRARIES runs/gguf --out benchmarks/results/llama-cpp-smollm2.md

LIBRARIES is a directory with a prebuilt libllama (see scripts/libllama.py), the run one with `--target llamacpp`. The
searched model is the run's own, assembled from its database in fp32; it is compared in another process than the search
was, on the run's held-out text. With `--mixes` llama.cpp's quantizer also makes its mixes of the run's model, if that
is a GGUF file, and types and bytes are held against ours.

llama.cpp multiplies quantized weights with activations that it rounds to 8 bits in blocks of 32, and keeps keys and
values in fp16, so logits agree to some hundredths of their spread and never exactly, and the likeliest token can only
be the same where it leads by more than that. What must hold: perplexities within 1 %, a mean KL between the two below
0.01, and, where the likeliest tokens differ, in held-out text or along our greedy text, that here the one leads the
other by at most TIE standard deviations of the difference between the two programs' logits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
TIE = 4.0


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


@dataclass(frozen=True)
class Scores:
    """A sequence's sums over its next tokens, and the `leads` of our likeliest tokens where llama.cpp has another.

    `here` and `there` are negative log likelihoods, `leads` counted in standard deviations of the logits' difference.
    """

    tokens: int
    here: float
    there: float
    kl: float
    leads: tuple[float, ...]


def compared(library: Library, workspace: Workspace, tokens: int) -> list[Row]:
    """Logits, perplexity and greedy text of the searched model, here and in llama.cpp."""
    profile, file = read_profile(workspace.run.profile), workspace.run.export / FILE
    llama, tokenizer = Llama(library, file), workspace.loaded.tokenizer
    sequences = workspace.splits.heldout.sequences
    sequences = sequences[: max(1, tokens // len(sequences[0]))]
    prompt = tokenizer.encode(PROMPT)
    if prompt != llama.tokenize(PROMPT, special=True):
        raise SystemExit(f"llama.cpp cuts {PROMPT!r} into other tokens")
    with workspace.assembled(profile) as model, torch.no_grad():
        scores = [pair_scores(model, ids, llama.logits(ids.tolist())[:-1]) for ids in sequences]
        written = greedy(model, prompt)
        steps = [llama.logits(written[:end].tolist())[-1] for end in range(len(prompt), len(written))]
        own = pair_scores(model, written, np.stack(steps))
    predicted = workspace.application.sizes(profile)["bytes"]
    count = sum(one.tokens for one in scores)
    leads = [lead for one in scores for lead in one.leads]
    here, there, kl = (sum(getattr(one, what) for one in scores) / count for what in ("here", "there", "kl"))
    ratio = float(np.exp(there - here) - 1)
    return [
        ("bytes of the file, predicted", f"{file.stat().st_size}, {predicted}", file.stat().st_size == predicted),
        (
            f"perplexity of {count} held-out tokens, here and in llama.cpp",
            f"{np.exp(here):.4f}, {np.exp(there):.4f} ({ratio:+.2%})",
            abs(ratio) < 0.01,
        ),
        ("mean KL from here to llama.cpp", f"{kl:.5f}", kl < 0.01),
        ("likeliest token the same", f"{1 - len(leads) / count:.1%}{_largest(leads)}", max(leads, default=0) <= TIE),
        (
            f"likeliest token the same along our greedy text of {NEW} tokens",
            f"{1 - len(own.leads) / NEW:.1%}{_largest(own.leads)}: {tokenizer.decode(written[len(prompt) :])!r}",
            max(own.leads, default=0) <= TIE,
        ),
    ]


def _largest(leads: Sequence[float]) -> str:
    return f", elsewhere it leads by at most {max(leads):.1f} standard deviations" if leads else ""


def pair_scores(model: Any, ids: torch.Tensor, theirs: np.ndarray) -> Scores:
    """Our answers before each of the last of the `ids` beside `theirs`, llama.cpp's logits (tokens, vocabulary)."""
    logits = model(ids[None]).logits[0, -len(theirs) - 1 : -1].double()
    other = torch.from_numpy(theirs).double()
    here, there = logits.log_softmax(-1), other.log_softmax(-1)
    targets = ids[-len(theirs) :, None]
    likelihoods = (-float(own.gather(-1, targets).sum()) for own in (here, there))
    kl = float((here.exp() * (here - there)).sum())
    lead = (logits.max(-1).values - logits.gather(-1, other.argmax(-1, keepdim=True))[:, 0]) / (logits - other).std(-1)
    return Scores(len(targets), *likelihoods, kl, tuple(lead[lead > 0].tolist()))


def greedy(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """The ids and NEW more, each the likeliest."""
    ids = torch.tensor(ids)
    for _ in range(NEW):
        ids = torch.cat([ids, model(ids[None]).logits[0, -1:].argmax(-1)])
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
