"""Tasks of the LM Evaluation Harness: local ones without a hub, as the harness's own command line has them."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evopress import errors

Call = Callable[..., Any]

WORDS = "the cat sat on a mat while it rained hard today again nobody knew why"
ANIMALS = """\
task: animals
dataset_path: json
dataset_kwargs:
  data_files: {{train: {data}, test: {data}}}
fewshot_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the file of a small multiple-choice task, and its data beside it."""
    path, rng = tmp_path_factory.mktemp("tasks"), random.Random(0)
    lines = [
        {
            "question": " ".join(rng.sample(WORDS.split(), 6)),
            "choices": rng.sample(WORDS.split(), 4),
            "answer": rng.randrange(4),
        }
        for _ in range(24)
    ]
    data = path / "animals.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "animals.yaml").write_text(ANIMALS.format(data=data))
    return path


@pytest.fixture(scope="module")
def finished(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose profile no test changes."""
    from tests.conftest import SMALL

    import evopress

    return evopress.quantize(
        str(checkpoint), data=str(text), out=tmp_path_factory.mktemp("run"), **SMALL
    ).directory.path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps of local files goes nowhere else."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own list has none of its tasks: to read all of it takes seconds."""
    from lm_eval.tasks import TaskManager

    whole = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **options: whole(self, **options | {"include_defaults": False})
    )


def harness_says(
    monkeypatch: pytest.MonkeyPatch, model: Path, folder: Path, out: Path, *words: str, options: str = ""
) -> dict[str, Any]:
    """Results by the harness's own command line on a checkpoint."""
    from lm_eval.__main__ import cli_evaluate

    line = (
        f"lm_eval run --model hf --model_args pretrained={model}{options} --tasks animals --include_path {folder} "
        "--device cpu"
    )
    monkeypatch.setattr(sys, "argv", [*line.split(), "--output_path", str(out), *words])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    cli_evaluate()
    return json.loads(next(out.rglob("results_*.json")).read_text())["results"]["animals"]


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize(
    ("bos", "options", "more"),
    [("auto", "", {}), ("no", ",add_bos_token=False", {"fewshot": "2", "limit": "10"})],
    ids=["plain", "fewshot"],
)
def test_the_command_and_the_harness_on_the_checkpoint_agree(
    quantize: Call,
    call: Call,
    bos_checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bos: str,
    options: str,
    more: Any,
) -> None:
    quantize(tmp_path / "run", "--dtype", "float32", "--bos", bos, model=bos_checkpoint)
    own = [f"--{name}={value}" for name, value in more.items()]
    flags = ("--tasks", "animals", "--task-path", folder, "--json", *own)
    found = json.loads(call("evaluate", tmp_path / "run", *flags).out)
    assert list(found["profiles"]) == ["dense", "uniform", "searched"]
    theirs = [f"--{name.replace('fewshot', 'num_fewshot')}={value}" for name, value in more.items()]
    for name, model in {"dense": bos_checkpoint, "searched": tmp_path / "run" / "export"}.items():
        expected = harness_says(monkeypatch, model, folder, tmp_path / name, *theirs, options=options)
        result = found["profiles"][name]["animals"]
        assert result["acc"] == expected["acc,none"]
        assert result["acc_norm"] == expected["acc_norm,none"]
        assert result["acc_stderr"] == expected["acc_stderr,none"]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_prompts_begin_with_bos_as_the_run_does(adds: bool, bos: bool) -> None:
    from evopress.steps.harness import _wrapped
    from evopress.testing import pico_model, pico_tokenizer

    tokenizer = pico_tokenizer(bos=True)
    tokenizer.add_bos_token = adds
    model = _wrapped(pico_model("llama"), tokenizer, bos, 1, lambda done, total: None)
    ids = tokenizer("a cat", add_special_tokens=False).input_ids
    prompt = [1, *ids] if bos else ids
    assert model.tok_encode("a cat") == prompt
    assert model.tok_batch_encode(["a cat"])[0].tolist() == [prompt]
    assert tokenizer("a cat").input_ids == ([1, *ids] if adds else ids)  # which the model card and exports rely on


def test_results_are_kept_beside_those_of_other_settings(
    quantize: Call, call: Call, folder: Path, tmp_path: Path
) -> None:
    quantize(tmp_path / "run")
    before = (tmp_path / "run" / "evaluation.json").read_bytes()
    flags = ("evaluate", tmp_path / "run", "--tasks", "animals", "--task-path", folder, "--batch-size", "8")
    shown = call(*flags)
    assert shown.code == 0, shown.err
    for word in ("animals acc", "animals acc_norm", "dense", "uniform", "searched", "±"):
        assert word in shown.out
    call(*flags)
    one = json.loads(call(*flags, "--limit", "4", "--json").out)
    kept = json.loads((tmp_path / "run" / "tasks.json").read_text())["evaluations"]
    assert [result["settings"]["limit"] for result in kept] == [None, 4]
    assert kept[1]["profiles"] == one["profiles"]
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == before


def test_a_group_has_a_result_of_its_own(finished: Path, call: Call, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "tasks")
    group = "group: zoo\ntask: [animals]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    (tmp_path / "tasks" / "zoo.yaml").write_text(group)
    flags = ("--tasks", "zoo", "--task-path", tmp_path / "tasks", "--limit", "8", "--json")
    found = json.loads(call("evaluate", finished, *flags).out)["profiles"]["searched"]
    assert set(found) == {"zoo", "animals"}
    assert found["zoo"]["acc"] == found["animals"]["acc"]


def test_dropped_sub_layers_and_another_profile(
    call: Call, checkpoint: Path, text: Path, folder: Path, tmp_path: Path
) -> None:
    flags = (
        "--fraction 0.33 --sequence-length 16 --search-tokens 512 --heldout-tokens 256 --generations 2 --offspring 4"
    )
    flags += " --survivors 1 --tokens-per-stage 32 --start-tokens 32 --polish none"
    assert call("drop", checkpoint, "-o", tmp_path / "run", "--data", text, *flags.split()).code == 0
    (tmp_path / "all.txt").write_text("none\n" * 3)
    flags = ("--tasks", "animals", "--task-path", folder, "--profile", tmp_path / "all.txt", "--json")
    found = json.loads(call("evaluate", tmp_path / "run", *flags).out)["profiles"]
    assert list(found) == ["dense", "shortgpt", "searched", "given"]
    assert found["given"] == found["dense"]  # nothing is dropped
    assert found["searched"] != found["dense"]
    assert not (tmp_path / "run" / "tasks.json").exists()


def last(result: Any, error: type[errors.EvopressError]) -> str:
    """The line of an error, which is the last and has no traceback above."""
    assert result.code == error.exit_code, result.err
    assert "Traceback" not in result.err
    return result.err.strip().splitlines()[-1]


@pytest.mark.usefixtures("few_tasks")
def test_an_unknown_task_names_similar_ones(finished: Path, call: Call, folder: Path, tmp_path: Path) -> None:
    result = call("evaluate", finished, "--tasks", "animal", "--task-path", folder)
    line = last(result, errors.TaskError)
    assert "unknown task 'animal'" in line
    assert "similar ones are animals" in line
    assert "lm_eval ls tasks" in last(call("evaluate", finished, "--tasks", "zzz"), errors.TaskError)


def test_data_of_a_task_that_is_not_there(finished: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "animals.yaml").write_text(ANIMALS.format(data=tmp_path / "nowhere.jsonl"))
    line = last(call("evaluate", finished, "--tasks", "animals", "--task-path", tmp_path / "tasks"), errors.DataError)
    assert "the data of task animals cannot be read" in line
    assert "nowhere.jsonl" in line


def test_a_task_file_that_does_not_fit_its_data(finished: Path, call: Call, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    text = (folder / "animals.yaml").read_text()
    (tmp_path / "tasks" / "animals.yaml").write_text(text.replace("{{answer}}", "{{colour}}"))
    line = last(call("evaluate", finished, "--tasks", "animals", "--task-path", tmp_path / "tasks"), errors.TaskError)
    assert "animals" in line


def test_flags_that_contradict_each_other(finished: Path, call: Call, folder: Path, tmp_path: Path) -> None:
    run = finished
    assert "--limit 3" in last(call("evaluate", run, "--limit", "3"), errors.ConfigError)
    assert "--tokens 64" in last(call("evaluate", run, "--tasks", "animals", "--tokens", "64"), errors.ConfigError)
    missing = last(call("evaluate", run, "--tasks", "animals", "--task-path", tmp_path / "no"), errors.ConfigError)
    assert "is no directory" in missing
    assert "no task is named" in last(call("evaluate", run, "--tasks", " , "), errors.ConfigError)


def test_tasks_need_a_searched_profile(quantize: Call, call: Call, folder: Path, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    (tmp_path / "run" / "profile.json").unlink()
    result = call("evaluate", tmp_path / "run", "--tasks", "animals", "--task-path", folder)
    assert "run the search step first" in last(result, errors.RunError)


def test_without_the_harness(finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evopress.steps.harness.find_spec", lambda name: None)
    line = last(call("evaluate", finished, "--tasks", "animals"), errors.MissingExtra)
    assert "evopress[tasks]" in line
