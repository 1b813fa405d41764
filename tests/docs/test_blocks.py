"""Every block of code on every page runs, Python and shell alike, in the order of the page, in one directory.

So does every whole command in running text. What is not as on the page: `my-model`, `MODEL` and `demo` are a pico
model; `my-text.txt`, `other-text.txt`, `demo` and datasets of the hub are a short text made here. Commands that
compress get flags behind their own that make them a matter of a second (`small`); windows are at most 64 tokens. A run
directory that no command of the page made (`DIR`, `RUN`) is a finished run. `programs` says what is done with programs
of others.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.docs.examples import PAGES, ROOT, Example, blocks, commands, mentioned
from tests.docs.programs import problem_of
from tests.docs.small import started

TASK = """\
task: stand-in
dataset_path: json
dataset_kwargs: {data_files: {train: tasks-of-the-tests/one.jsonl, test: tasks-of-the-tests/one.jsonl}}
fewshot_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico model, the texts, a task, copies of scripts and pages, and a finished run, made once."""
    from evopress.testing import merging_tokenizer, pico_model

    path = tmp_path_factory.mktemp("things")
    for part in (pico_model("llama", width=128, vocabulary=300), merging_tokenizer()):
        part.save_pretrained(path / "my-model")
    lines = [f"{n} times {n} is {n * n}, and {n} times that is {n**3}." for n in range(300)]
    (path / "my-text.txt").write_text("\n\n".join(lines))
    (path / "prose.txt").write_text("\n\n".join(" ".join(lines[n : n + 5]) for n in range(100, 300)))
    (path / "other-text.txt").write_text("\n".join(f"{n} and {n} are {n + n}." for n in range(60)))
    (path / "tasks-of-the-tests").mkdir()
    (path / "tasks-of-the-tests" / "one.yaml").write_text(TASK)
    questions = ({"question": f"{n} is", "choices": [str(n), str(n + 1)], "answer": 0} for n in range(8))
    (path / "tasks-of-the-tests" / "one.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    for page in ROOT.glob("*.md"):
        shutil.copy(page, path)
    for folder in ("benchmarks", "scripts", "docs"):  # what they write goes beside them
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        started(shlex.split("evopress quantize my-model --bits 3 --data my-text.txt -o finished"))
    return path


@pytest.fixture
def desk(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of one page."""
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # of tasks' data
    if datasets := sys.modules.get("datasets"):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def run(page: Path, example: Example, namespace: dict[str, Any]) -> None:
    """One block of a page; AssertionError names the command that does not work."""
    if example.kind == "python":
        lines = "\n" * (example.line - 1) + example.body  # line numbers in errors are the page's
        exec(compile(lines, page, "exec", dont_inherit=True), namespace)
        return
    for number, words in commands(example.body):
        problem = problem_of(words)
        assert not problem, f"{page.name}, line {example.line + number}: {shlex.join(words)}: {problem}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "sh")], ids=lambda page: page.name)
def test_blocks_run(page: Path, desk: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    for example in blocks(page, "python", "sh"):
        run(page, example, namespace)


MENTIONED = {example.body.strip(): (page, example) for page in PAGES for example in mentioned(page)}


@pytest.mark.parametrize("command", MENTIONED)
def test_commands_in_running_text_run(command: str, desk: Path) -> None:
    page, example = MENTIONED[command]
    run(page, example, {})


def test_every_block_is_of_a_kind_that_runs_or_is_no_command() -> None:
    programs = r"^(\$ )?(\S*/)?(evopress|make|python\S*|pip|lm_eval|vllm|llama-\w+) (?!.*\[OPTIONS\])"
    for page in PAGES:
        for example in blocks(page, "", "text", "bibtex", "toml", "json", "bash", "shell", "console"):
            assert not re.search(programs, example.body, re.M), f"{page.name}, line {example.line}: call it sh"


def test_the_pages_with_examples_have_them() -> None:
    kinds = {page.name: {example.kind for example in blocks(page, "python", "sh")} for page in PAGES}
    for name in ("README.md", "api.md", "extending.md", "tutorial.md", "evaluation.md"):
        assert "python" in kinds[name]
    for name in ("README.md", "CONTRIBUTING.md", "quickstart.md", "tutorial.md", "evaluation.md", "howto-data.md"):
        assert "sh" in kinds[name]
    assert len(MENTIONED) > 20


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("evopress quantize my-model --colour red", "exit code 2"),
        ("evopress evaluate finished --tasks arc_coffee", "the harness has no task arc_coffee"),
        ("make coffee", "No rule to make target"),
        ("pip install 'evopress[coffee]'", "does not provide the extra 'coffee'"),
        ("pip install -e '.[coffee]'", "does not provide the extra 'coffee'"),
        ("pip install 'gguf>=99'", "No matching distribution found for gguf>=99"),
        ("pip install coffee", "No matching distribution found for coffee"),
        ("pip install --coffee gguf", "no such option: --coffee"),
        ("python -m venv --coffee .venv", "unrecognized arguments: --coffee"),
        ("python benchmarks/coffee.py", "no "),
        ("python benchmarks/theorem_3_1.py --coffee", "exit code 2"),
        ("python benchmarks/tables.py runs/tables --set coffee=1", "how small coffee should be"),
        (".venv/bin/python -m pytest -m coffee", "Unknown marker(s)"),
        (".venv/bin/python -m pytest --coffee", "unrecognized arguments: --coffee"),
        ("ruff brew", "unrecognized subcommand 'brew'"),
        ("mypy --coffee", "unrecognized arguments: --coffee"),
        ("mkdocs brew", "No such command 'brew'"),
        ("lm_eval run --model hf --tasks arc_easy,coffee", "no task coffee"),
        ("tensorboard --coffee", "does not take"),
        ("tensorboard --logdir my-model", "no events"),
        ("vllm serve runs/coffee", "no runs/coffee"),
        ("vllm brew runs/coffee", "vllm brew is not on the list"),
        ("llama-completion -m finished/config.toml", "no finished/config.toml"),
        ("coffee --black", "nothing is known of coffee"),
    ],
)
def test_what_does_not_work_is_noticed(command: str, problem: str, desk: Path) -> None:
    assert problem in problem_of(shlex.split(command))
