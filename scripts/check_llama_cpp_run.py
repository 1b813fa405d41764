"""A searched GGUF file in llama.cpp itself: logits, greedy text and perplexity beside the searched model's.

    python scripts/check_llama_cpp_run.py LIBRARIES runs/gguf --control 15 --out benchmarks/results/llama-cpp-smollm2.md

LIBRARIES is a directory with a prebuilt libllama (see scripts/libllama.py), the run one with `--target llamacpp`. The
searched model is the run's own, assembled from its database in fp32; it is compared in another process than the search
was, on the run's held-out text. With `--control` files that are wrong as an error in the export would make them (see
scripts/gguf_variants.py) go through the same check, and each must fail it. With `--mixes` llama.cpp's quantizer also
makes its mixes of the run's model, if that is a GGUF file, and types and bytes are held against ours.

llama.cpp multiplies quantized weights with activations that it rounds to 8 bits in blocks of 32, and keeps keys and
values in fp16, so logits agree to some hundredths of their spread and never exactly, and the likeliest token can only
be the same where it leads by more than that. What must hold: perplexities within 1 %, a mean KL between the two below
PACKED, and, where the likeliest tokens differ, in held-out text or along our greedy text, that here the one leads the
other by at most TIE standard deviations of the difference between the two programs' logits.

An error in one block can hide in that rounding. So the file also runs with its weights unpacked to fp32 by the gguf
package, its names, order, metadata and numbers as they are: then nothing but keys and values is rounded, and the mean
KL must be below PLAIN.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
import torch
from gguf_variants import damages, unpack
from libllama import FILE_TYPES, Library, Llama

from evopress.families import QuantizeGgml
from evopress.formats.gguf import gguf_names
from evopress.formats.gguf_format import FILE
from evopress.levels.ggml import pack_ggml
from evopress.levels.mixes import mix_types
from evopress.models.load import gguf_file
from evopress.models.weights import weight
from evopress.run.directory import RunDirectory, read_run
from evopress.run.observer import Observer
from evopress.run.records import read_profile
from evopress.settings.config import Config
from evopress.steps.workspace import Workspace

PROMPT = "The capital of France is"
NEW = 24
TIE = 4.0
PACKED, PLAIN = 0.01, 5e-4


def main() -> None:
    """Compare and print; the exit code is 1 when something that must hold does not, or a damaged file passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=2048, help="of the held-out text")
    parser.add_argument("--control", type=int, nargs="+", default=[], help="blocks to damage: those files must fail")
    parser.add_argument("--mixes", nargs="*", default=[], choices=list(FILE_TYPES))
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables")
    options = parser.parse_args()
    library, workspace = Library(options.libraries), in_fp32(options.run)
    ours = answers(workspace, options.tokens)
    found = agreement(library, workspace.run.export / FILE, ours)
    rows = compared(library, workspace, ours, found)
    rows += [mixed(library, workspace, mix) for mix in options.mixes]
    text, right = "| what | found | holds |\n| --- | --- | --- |\n", all(fine for _, _, fine in rows)
    text += "".join(f"| {what} | {found} | {'yes' if fine else '**no**'} |\n" for what, found, fine in rows)
    if options.control:
        wrong = controlled(library, workspace, ours, options.control)
        table, separates = control_table([("as exported", found), *wrong])
        text, right = f"{text}\n## Files that are wrong\n\n{table}", right and separates
    sys.stdout.write(text)
    if options.out:
        command = f"python scripts/check_llama_cpp_run.py LIBRARIES RUN --tokens {options.tokens}"
        for flag, values in (("--control", options.control), ("--mixes", options.mixes)):
            command += " ".join(["", flag, *map(str, values)]) if values else ""
        options.out.write_text(f"# A searched GGUF file in llama.cpp\n\nMade by `{command}`.\n\n{text}")
    sys.exit(not right)


Row = tuple[str, str, bool]


def in_fp32(directory: Path) -> Workspace:
    """The run's workspace with the model in fp32, so that only llama.cpp rounds."""
    run = read_run(directory)
    plain: Config = run.config.model_copy(update={"model": run.config.model.model_copy(update={"dtype": "float32"})})
    return Workspace(RunDirectory(run.path, plain), Observer())


@dataclass(frozen=True)
class Answers:
    """What the searched model says: `held` and `text` are pairs of tokens and its logits before the last of them.

    `held` are sequences of held-out text, `text` is the prompt with our greedy text, the logits before that.
    """

    held: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    text: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Scores:
    """Sums over the next tokens, and the `leads` of our likeliest tokens where llama.cpp has another.

    `here` and `there` are negative log likelihoods, `leads` counted in standard deviations of the logits' difference.
    """

    tokens: int
    here: float
    there: float
    divergence: float
    leads: tuple[float, ...]

    @property
    def kl(self) -> float:
        """The mean from here to llama.cpp."""
        return self.divergence / self.tokens

    @property
    def ratio(self) -> float:
        """llama.cpp's perplexity over ours, less one."""
        return float(np.exp((self.there - self.here) / self.tokens) - 1)

    @property
    def same(self) -> float:
        """How often the likeliest token is the same."""
        return 1 - len(self.leads) / self.tokens

    @property
    def lead(self) -> float:
        """The largest."""
        return max(self.leads, default=0.0)

    def __str__(self) -> str:
        return f"{self.same:.1%}" + f", elsewhere it leads by at most {self.lead:.1f} standard deviations" * bool(
            self.leads
        )


@dataclass(frozen=True)
class Agreement:
    """What llama.cpp makes of a file beside our answers: on held-out text, along our greedy text, and on held-out text
    when the file's weights are unpacked to fp32 before.
    """

    held: Scores
    text: Scores
    plain: Scores

    @property
    def checks(self) -> dict[str, tuple[str, bool]]:
        """What is held against a limit: (what was found, whether it holds)."""
        held, text, plain = self.held, self.text, self.plain
        here, there = (float(np.exp(sum / held.tokens)) for sum in (held.here, held.there))
        return {
            f"perplexity of {held.tokens} held-out tokens, here and in llama.cpp": (
                f"{here:.4f}, {there:.4f} ({held.ratio:+.2%})",
                abs(held.ratio) < 0.01,
            ),
            "mean KL from here to llama.cpp": (f"{held.kl:.5f}", held.kl < PACKED),
            "the same, the file's weights unpacked to fp32": (f"{plain.kl:.7f}", plain.kl < PLAIN),
            "likeliest token the same": (str(held), held.lead <= TIE),
            f"likeliest token the same along our greedy text of {NEW} tokens": (str(text), text.lead <= TIE),
        }


def answers(workspace: Workspace, tokens: int) -> Answers:
    """The searched model's, assembled in memory."""
    sequences = workspace.splits.heldout.sequences
    prompt = workspace.loaded.tokenizer.encode(PROMPT)
    model = workspace.loaded.model
    with workspace.assembly() as assembly, torch.no_grad():
        assembly.apply(read_profile(workspace.run.profile))
        written = greedy(model, prompt)
        return Answers(
            tuple((ids, model(ids[None]).logits[0, :-1]) for ids in sequences[: max(1, tokens // len(sequences[0]))]),
            (written, model(written[None]).logits[0, len(prompt) - 1 : -1]),
        )


def agreement(library: Library, file: Path, ours: Answers) -> Agreement:
    """Run a file on the same tokens."""
    llama = Llama(library, file)
    with TemporaryDirectory() as folder:
        unpack(file, Path(folder) / FILE)
        plain = held_scores(Llama(library, Path(folder) / FILE), ours)
    written, logits = ours.text
    text = pair_scores(written, logits, llama.logits(written.tolist())[-len(logits) - 1 : -1])
    return Agreement(held_scores(llama, ours), text, plain)


def held_scores(llama: Llama, ours: Answers) -> Scores:
    """The sums over all sequences of held-out text."""
    held = [pair_scores(ids, logits, llama.logits(ids.tolist())[:-1]) for ids, logits in ours.held]
    here, there, divergence = (sum(getattr(one, what) for one in held) for what in ("here", "there", "divergence"))
    leads = tuple(lead for one in held for lead in one.leads)
    return Scores(sum(one.tokens for one in held), here, there, divergence, leads)


def compared(library: Library, workspace: Workspace, ours: Answers, found: Agreement) -> list[Row]:
    """Size, logits, perplexity and greedy text of the run's file."""
    file, tokenizer = workspace.run.export / FILE, workspace.loaded.tokenizer
    llama, prompt = Llama(library, file), tokenizer.encode(PROMPT)
    if prompt != llama.tokenize(PROMPT, special=True):
        raise SystemExit(f"llama.cpp cuts {PROMPT!r} into other tokens")
    predicted = workspace.sizes(read_profile(workspace.run.profile))["bytes"]
    size = file.stat().st_size
    rows = [("bytes of the file, predicted", f"{size}, {predicted}", size == predicted)]
    rows += [(what, text, holds) for what, (text, holds) in found.checks.items()]
    return [*rows, ("our greedy text", repr(tokenizer.decode(ours.text[0][len(prompt) :])), True)]


def controlled(
    library: Library, workspace: Workspace, ours: Answers, blocks: Sequence[int]
) -> Iterator[tuple[str, Agreement]]:
    """What becomes of the run's file with each damage of these blocks."""
    for what, damage in damages(workspace.loaded.model.config, blocks).items():
        with TemporaryDirectory() as folder:
            file = Path(shutil.copy(workspace.run.export / FILE, folder))
            damage(gguf.GGUFReader(file, "r+"))
            yield what, agreement(library, file, ours)


SHORT = ("perplexity", "KL", "KL in fp32", "lead", "lead in greedy text")
"""What the checks of an `Agreement` are called in the table of files that are wrong."""


def control_table(found: Iterable[tuple[str, Agreement]]) -> tuple[str, bool]:
    """One row for each file, and whether the first passes all checks and each other one fails some."""
    head = ("file", "perplexity", "KL", "KL in fp32", "likeliest the same", "lead", "lead in greedy text", "fails")
    lines, right = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * 6 + " --- |"], True
    for number, (what, one) in enumerate(found):
        failed = [name for name, (_, holds) in zip(SHORT, one.checks.values(), strict=True) if not holds]
        cells = [what, f"{one.held.ratio:+.2%}", f"{one.held.kl:.5f}", f"{one.plain.kl:.7f}", f"{one.held.same:.1%}"]
        cells += [f"{one.held.lead:.1f}", f"{one.text.lead:.1f}", ", ".join(failed) or "nothing"]
        lines.append("| " + " | ".join(cells) + " |")
        right &= bool(failed) == bool(number)
    return "\n".join(lines) + "\n", right


def pair_scores(ids: torch.Tensor, ours: torch.Tensor, theirs: np.ndarray) -> Scores:
    """Our logits before each of the last of the `ids` beside `theirs`, llama.cpp's (tokens, vocabulary)."""
    logits, other = ours.double(), torch.from_numpy(theirs).double()
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
    assert isinstance(workspace.family, QuantizeGgml)
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
