"""Small runs whose every byte is compared with what an earlier commit wrote. `python tests/golden/record.py` records.

They use only what users do: the public names, the command line, and files. Everything that depends on when or with
which version of what a file was written is cut out before it is hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

HERE = Path(__file__).parent
HASHES = HERE / "hashes.json"
UNFINISHED = HERE / "unfinished"
"""A run that was left in mid-search; `expected.json` in it is the profile that it has to come to."""

SETTINGS: dict[str, Any] = {
    "data": "text.txt",
    "dtype": "float32",
    "sequence_length": 16,
    "calibration_tokens": 128,
    "search_tokens": 256,
    "heldout_tokens": 128,
    "generations": 3,
    "offspring": 4,
    "survivors": (2, 1),
    "tokens_per_stage": (32, 64),
    "start_tokens": 32,
    "start_candidates": 3,
    "sensitivity_tokens": (32, 64),
    "polish": "none",
}
BITS = {"levels": (2, 4, 8), "group_size": 16, "symmetric": True}

RUNS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "bits": ("quantize", {"model": "pico", "bits": 5, **BITS}, ("compressed-tensors",)),
    "packed": (
        "quantize",
        {"model": "wide", "size": "260kB", "target": "vllm", "method": "rtn", "group_size": 32},
        ("gptq",),
    ),
    "ggml": (
        "quantize",
        {"model": "tied", "bpw": 5, "target": "llamacpp", "levels": ("Q4_0", "Q5_0", "Q8_0")},
        ("llama-quantize",),
    ),
    "sparsity": ("sparsify", {"model": "wide", "sparsity": 0.5}, ("gguf",)),
    "depth": ("drop", {"model": "wide", "fraction": 0.4, "target": "llamacpp"}, ("hf",)),
}
"""Name -> the function of evopress, its arguments, and the formats that it is exported to beside its own."""


def machine() -> dict[str, str]:
    """What rounds: the same numbers come only from the same libraries and instructions, and a probe of both."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "probe": _probe(),
    }


def _probe() -> str:
    """A digest of products, a factorisation and functions, of several shapes, in one thread."""
    generator, found = torch.Generator().manual_seed(0), hashlib.sha256()
    for size in (3, 16, 48, 96, 257):
        a, b = (torch.randn(size, size, generator=generator) for _ in range(2))
        factor = torch.linalg.cholesky((a @ a.T).double() + torch.eye(size)).float()
        for one in (a @ b, a @ b[0], a.bfloat16() @ b.bfloat16(), factor, torch.cholesky_inverse(factor)):
            found.update(one.float().numpy().tobytes())
        for one in (
            torch.log_softmax(a, -1),
            torch.nn.functional.silu(a),
            a.square().mean(-1).rsqrt(),
            b.exp(),
            b.cos(),
        ):
            found.update(one.numpy().tobytes())
    return found.hexdigest()[:16]


@contextlib.contextmanager
def at(folder: Path) -> Iterator[None]:
    """In a folder with the models and the text, in one thread, since paths and sums are part of what is compared."""
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


def make_inputs(folder: Path) -> None:
    """Models and a text, from seeds."""
    from evopress.testing import gguf_config, merging_tokenizer, pico_model, pico_tokenizer, random_model

    pico_model("llama").save_pretrained(folder / "pico")
    random_model(gguf_config("llama", width=64, tie_word_embeddings=True)).save_pretrained(folder / "tied")
    random_model(gguf_config("llama", width=64)).save_pretrained(folder / "wide")
    pico_tokenizer().save_pretrained(folder / "pico")
    for name in ("tied", "wide"):
        merging_tokenizer().save_pretrained(folder / name)
    rng, words = random.Random(0), ("the", "cat", "sat", "on", "a", "mat", "while", "it", "rained", "hard", "today")
    lines = (" ".join(rng.choice(words) for _ in range(100)) for _ in range(20))
    (folder / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")


def run(name: str) -> dict[str, str]:
    """Make a run and its exports in the current folder; returns digests of its files."""
    import evopress
    from evopress.cli import main

    function, arguments, formats = RUNS[name]
    getattr(evopress, function)(out=name, **SETTINGS | arguments)
    for format in formats:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main(["export", name, "--format", format, "--out", f"{name}/as-{format}"])
        assert not ended.value.code, said.getvalue()
    return digests(Path(name))


LEFT_OUT = ("report.html", "progress.jsonl", "timing.json", ".lock")
"""Files that tell times, and the page that is drawn from them."""


def digests(folder: Path) -> dict[str, str]:
    """File -> the first digits of the SHA-256 of what stands in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in LEFT_OUT)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(_timeless(path)).hexdigest()[:16] for path in files}


def _timeless(path: Path) -> bytes:
    """A file's bytes without seconds and versions."""
    if path.name in ("profile.json", "evaluation.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({key: own for key, own in data.items() if key not in ("seconds", "versions")}).encode()
    if path.suffix == ".md":
        return re.sub(r".*evopress \d+\.\d+.*\n", "", path.read_text(encoding="utf-8")).encode()
    return path.read_bytes()


def cut(journal: Path, lines: int) -> None:
    """Leave the header and so many batches of a journal, as a kill in mid-search does."""
    kept = journal.read_text(encoding="utf-8").splitlines(keepends=True)[: lines + 1]
    journal.write_text("".join(kept), encoding="utf-8")


def unfinished(folder: Path) -> Callable[[], dict[str, str]]:
    """What finishes the run that was left in `folder`, and returns its profile."""
    import evopress

    arguments = SETTINGS | {"model": "pico", "bits": 5, "out": folder, "generations": 6, **BITS, "method": "rtn"}
    return lambda: dict(evopress.quantize(**arguments).profile.items())


def _record() -> None:
    with tempfile.TemporaryDirectory() as folder, at(Path(folder)):
        make_inputs(Path(folder))
        found = {"machine": machine(), "runs": {name: run(name) for name in RUNS}}
    HASHES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _leave_unfinished() -> None:
    """Only where there is none: the point of it is that an earlier commit left it."""
    with tempfile.TemporaryDirectory() as folder, at(Path(folder)):
        make_inputs(Path(folder))
        profile = unfinished(Path("unfinished"))()
        UNFINISHED.mkdir()
        for name in ("config.toml", "journal.jsonl", "sensitivity-0.json", "sensitivity-1.json"):
            shutil.copyfile(Path("unfinished") / name, UNFINISHED / name)
        shutil.copytree(Path("unfinished/database"), UNFINISHED / "database", ignore=shutil.ignore_patterns(".lock"))
    journal = UNFINISHED / "journal.jsonl"
    cut(journal, len(journal.read_text(encoding="utf-8").splitlines()) // 2)
    (UNFINISHED / "expected.json").write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _record()
    if not UNFINISHED.exists():
        _leave_unfinished()
