"""The commands that make a run again and that use its result, exact enough to be pasted."""

from __future__ import annotations

import shlex
from typing import Any

from evopress.report.data import RunData
from evopress.settings.called import verb
from evopress.settings.config import Config, flat
from evopress.settings.resolve import resolve

BUDGET_FLAGS = {"bits": "bits", "bpw": "bpw", "size": "size", "weights": "sparsity"}
"""What a budget counts -> the flag that gives it; all others are fractions."""


def reproduce(config: Config, out: str) -> str:
    """The command line that has this configuration, with the settings that its preset does not give."""
    budget = config.budget
    flag = BUDGET_FLAGS.get(budget.counts, "fraction")
    words = ["evopress", verb(config.families), config.model.source, f"--{flag}", budget.target]
    given: dict[str, Any] = {flag: budget.target, "preset": config.search.preset, "data": config.data.source}
    if flag == "size":
        given["application"] = config.families[0]
    if len(config.families) > 1:
        given["use"] = config.families
        words += ["--use", ",".join(config.families)]
    if flag == "fraction" and budget.counts != "count":
        given["counts"] = budget.counts
        words += ["--counts", budget.counts]
    if config.export.target is not None:
        given["target"] = config.export.target
        words += ["--target", config.export.target]
    words += ["--preset", config.search.preset, "--data", config.data.source, "--out", out]
    for name, value in _said(config, given).items():
        words += _flag(name, value)
    return shlex.join(words)


def _said(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that have to be said beside `given`: one that is said may change what others are by default.

    What was left to `auto` is left to it again.
    """
    said: dict[str, Any] = {}
    left = {"automatic", *config.search.automatic}
    while True:
        default = resolve(config.model.source, **given, **said)
        values, settled = flat(default), set(default.search.automatic) - left
        fresh = {}
        for key, value in flat(config).items():
            name = key.partition(".")[2]
            if name not in left and name not in said and (values.get(key) != value or name in settled):
                fresh[name] = 0 if name == "group_size" and value is None else value  # 0 is how None is said
        if not fresh:
            return said
        said |= fresh


SERVE = {
    "vllm": "vllm serve {}",
    "transformers": "transformers serve {}",
    "mlx": "mlx_lm.server --model {}",
    "llamacpp": "llama-server -m {}/*.gguf",
}
"""Target -> the command that serves its checkpoints; where no target was named, all that read Hugging Face's."""


def use(run: RunData) -> tuple[tuple[str, str], ...]:
    """What to do with the result: (what it is for, command) pairs; none while there is no result."""
    if run.profile is None:
        return ()
    path = shlex.quote(str(run.path))
    commands = [("Score it on another text", f"evopress evaluate {path} --data other-text.txt")]
    commands.append(("Search with every baseline, too", f"evopress compare {path}"))
    if not run.exported:
        commands.append(("Write the checkpoint", f"evopress export {path}"))
    target = run.config.export.target
    for name in [target] if target else ["transformers", "vllm"]:
        commands.append(
            (f"Serve the checkpoint with {name}", SERVE[name].format(shlex.quote(str(run.path / "export"))))
        )
    return tuple(commands)


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, ",".join(map(str, value))]
    return [] if value is None else [flag, str(value)]
