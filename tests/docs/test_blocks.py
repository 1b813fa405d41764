"""Every block of code on every page runs, Python and shell alike, in the order of the page, in one empty directory.

What is not as on the page: `my-model`, `MODEL` and `demo` are a pico model; `my-text.txt`, `other-text.txt`, `demo` and
datasets of the hub are a short text made here. Commands that compress get flags behind their own that make them a
matter of a second, and windows are at most 64 tokens. A run directory that no command of the page made is a finished
run of that model. `make`, `pip` and scripts are looked up, not executed; programs of others are only known by name. A
block below `<!-- not run: why -->` is left out.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evopress.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
FENCE = re.compile(r"(?:^(?P<skip><!-- not run: [^\n]+ -->)\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
NOT_OURS = {"vllm", "lm_eval", "llama-cli", "llama-server", "llama-quantize", "curl", "cat", "cd", "tensorboard"}
"""Programs that examples call and that are not started here."""

SMALL = [
    *("--sequence-length", "32", "--search-tokens", "512", "--heldout-tokens", "256", "--generations", "2"),
    *("--offspring", "4", "--survivors", "2,1", "--tokens-per-stage", "32,64", "--start-tokens", "32"),
]
CALIBRATED = ["--calibration-tokens", "256", "--sensitivity-tokens", "32,64"]
TARGETED = [*CALIBRATED, "--group-size", "32"]  # a target has levels of its own
MORE = {
    "quantize": [*CALIBRATED, "--levels", "2,3,4", "--group-size", "16"],
    "sparsify": CALIBRATED,
    "drop": [],
    "sweep": [*CALIBRATED, "--levels", "2,3,4", "--group-size", "16", "--start", "knapsack"],
}
MODELS, TEXTS = {"MODEL", "demo"}, {"wikitext2", "c4", "fineweb_edu", "demo"}


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """Blocks that are to be run: number of the first line, language and content."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match["kind"] in ("python", "sh") and not match["skip"]]
    return [(text.count("\n", 0, match.start("body")) + 1, match["kind"], match["body"]) for match in found]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico model, the texts and a finished run, made once."""
    from evopress.testing import pico_model

    path = tmp_path_factory.mktemp("things")
    for part in (pico_model("llama", width=64, vocabulary=97), merging_tokenizer()):
        part.save_pretrained(path / "my-model")
    lines = (f"{n} times {n} is {n * n}, and {n} times that is {n**3}." for n in range(300))
    (path / "my-text.txt").write_text("\n\n".join(lines))
    (path / "other-text.txt").write_text("\n".join(f"{n} and {n} are {n + n}." for n in range(60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        started(shlex.split("evopress quantize my-model --bits 3 --data my-text.txt -o finished"))
    return path


def merging_tokenizer() -> Any:
    """The pico models' with one merge, without which GGUF has no tokenizer; and 32 divides the model's widths."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from evopress.testing import pico_tokenizer

    plain = pico_tokenizer()
    data = json.loads(plain.backend_tokenizer.to_str())
    data["model"]["vocab"]["he"], data["model"]["merges"] = len(plain), [["h", "e"]]
    merging = Tokenizer.from_str(json.dumps(data))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=merging, unk_token="<unk>", eos_token="<unk>", pad_token="<unk>", model_max_length=256
    )


@pytest.fixture
def desk(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of one page."""
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_run(page: Path, desk: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    for line, kind, body in blocks(page):
        if kind == "python":
            lines = "\n" * (line - 1) + body  # line numbers in errors are the page's
            exec(compile(lines, page, "exec", dont_inherit=True), namespace)
            continue
        for number, command in enumerate(body.replace("\\\n", " ").splitlines(), start=line):
            if words := shlex.split(command, comments=True):
                where = f"{page.name}, line {number}: {command}"
                handler = HANDLERS.get(words[0])
                assert handler or words[0] in NOT_OURS, f"{where}: mark it '<!-- not run: why -->'"
                if handler:
                    problem = handler(words)
                    assert not problem, f"{where}: {problem}"


def started(words: list[str]) -> str:
    """What is wrong with an evopress command, after it ran."""
    try:
        main(small(words))
    except SystemExit as exit_:
        return f"exit code {exit_.code}" if exit_.code else ""
    return ""


def small(words: list[str]) -> list[str]:
    """The arguments with a pico model, a short text and little work."""
    _, command, *rest = words
    if command == "demo":
        command, rest = "quantize", ["my-model", *(rest if "-o" in rest else [*rest, "-o", "runs/demo"]), "--bits", "3"]
    if command in MORE:
        rest[0] = "my-model" if rest[0] in MODELS else rest[0]
        rest = rest if "--data" in rest else [*rest, "--data", "my-text.txt"]
        rest += SMALL + (TARGETED if "--target" in rest and command == "quantize" else MORE[command])
        if not {"-o", "--out"} & set(rest):
            rest += ["-o", f"runs/{command}"]
    elif rest and not Path(rest[0]).exists():
        shutil.copytree("finished", rest[0])
    for at, word in enumerate(rest):
        if rest[at - 1] == "--data" and (word in TEXTS or word.startswith("hub:")):
            rest[at] = "other-text.txt" if command in ("evaluate", "compare") else "my-text.txt"
        if rest[at - 1] == "--sequence-length":
            rest[at] = str(min(64, int(word)))
    return [command, *rest]


def made(words: list[str]) -> str:
    """Whether the Makefile has these targets."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = [word for word in words[1:] if "=" not in word and not re.search(rf"^{re.escape(word)}:", text, re.M)]
    return f"no target {missing[0]}" if missing else ""


def installed(words: list[str]) -> str:
    """Whether the extras of evopress that pip is asked for exist."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.findall(r"(?:evopress|\.)\[([\w,-]+)\]", " ".join(words))
    missing = [name for names in asked for name in names.split(",") if not re.search(rf"^{name} = \[", project, re.M)]
    return f"no extra {missing[0]}" if missing else ""


def scripted(words: list[str]) -> str:
    """Whether a script is there and knows the flags."""
    script = next((ROOT / word for word in words if word.endswith(".py")), None)
    if script is None:
        return "" if words[1] == "-m" else "no script"
    if not script.is_file():
        return f"no {script}"
    flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    text = script.read_text(encoding="utf-8")
    return "".join(f"no flag {flag}" for flag in flags if f'"{flag}"' not in text)


HANDLERS: dict[str, Callable[[list[str]], str]] = {
    "evopress": started,
    "make": made,
    "pip": installed,
    "python": scripted,
}


def test_the_pages_with_examples_have_them() -> None:
    kinds = {page.name: {kind for _, kind, _ in blocks(page)} for page in PAGES}
    for name in ("README.md", "api.md", "extending.md", "tutorial.md", "evaluation.md"):
        assert "python" in kinds[name]
    for name in ("README.md", "quickstart.md", "tutorial.md", "evaluation.md", "howto-data.md"):
        assert "sh" in kinds[name]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("evopress quantize my-model --colour red", "exit code 2"),
        ("make coffee", "no target coffee"),
        ("pip install 'evopress[coffee]'", "no extra coffee"),
        ("python benchmarks/coffee.py", "no "),
        ("python benchmarks/evaluation.py runs/demo --coffee", "no flag --coffee"),
    ],
)
def test_what_does_not_work_is_noticed(command: str, problem: str, desk: Path) -> None:
    words = shlex.split(command)
    assert problem in HANDLERS[words[0]](words)
