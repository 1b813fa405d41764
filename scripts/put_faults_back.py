"""Put the faults of docs/method.md ("Faults ruled out") back, one at a time, and see the tests named there fail.

Sources and tests are copied, so nothing here is touched. A test passes on the copy first; then one line of the copy is
changed and the same test has to fail, or not to end. Takes ten minutes.

    python scripts/put_faults_back.py            # all; exit code 1 when a fault goes unnoticed
    python scripts/put_faults_back.py --only 14  # one, by its number
    python scripts/put_faults_back.py --list     # nothing is run: only whether the lines to change are there
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import evopress

ROOT = Path(evopress.__file__).parents[2]
PATIENCE = 90
"""Seconds after which a test counts as one that does not end."""


@dataclass(frozen=True)
class Fault:
    """In `file` of src/evopress, `right` becomes `wrong`, and `test` (of tests/) has to notice."""

    name: str
    file: str
    right: str
    wrong: str
    test: str


FAULTS = (
    Fault(
        "more tokens asked for than exist: endless loop",
        "text/tokens.py",
        'if tokens > self.total:\n            raise NotEnoughTokens(f"asked for {tokens} tokens',
        "while tokens > self.total:\n            rng.random()\n            continue\n"
        '            raise NotEnoughTokens(f"asked for {tokens} tokens',
        "text/test_tokens.py::test_a_minibatch_of_more_than_exists_is_an_error",
    ),
    Fault(
        "fewer distinct profiles than offspring: endless loop",
        "search/evolution.py",
        "while len(children) < wanted and failures < ATTEMPTS:",
        "while len(children) < wanted:",
        "search/test_evolution.py::test_fewer_profiles_than_offspring_is_no_endless_loop",
    ),
    Fault(
        "fewer distinct starts than asked for: endless loop",
        "search/starts/drawn.py",
        "while len(found) < count and failures < ATTEMPTS:",
        "while len(found) < count:",
        "search/starts/test_starts.py::test_fewer_starts_than_asked_for_end",
    ),
    Fault(
        "the parent is let in by the number of survivors, not by the stage",
        "search/evolution.py",
        "            if number == last:\n",
        "            if stage.survivors == self.stages[last].survivors:\n",
        "search/test_evolution.py::test_the_parent_joins_the_last_stage_only_even_with_one_survivor",
    ),
    Fault(
        "sequences of one token",
        "text/tokens.py",
        "SHORTEST_SEQUENCE = 2 ",
        "SHORTEST_SEQUENCE = 1 ",
        "text/test_tokens.py::test_one_token_sequences_are_refused",
    ),
    Fault(
        "a score that is NaN is handed on",
        "fitness/evaluator.py",
        "math.inf if math.isnan(mean) else self",
        "self",
        "fitness/test_evaluator.py::test_nan_becomes_infinity_and_so_ranks_last",
    ),
    Fault(
        "NaN decides selection",
        "search/planned.py",
        "key=lambda i: (0, scores[i]) if math.isfinite(scores[i]) else (1, 0.0)",
        "key=scores.__getitem__",
        "search/test_evolution.py::test_scores_that_are_not_finite_never_win",
    ),
    Fault(
        "a depth of int(fraction x n)",
        "families/drop.py",
        "math.floor(value + Fraction(1, 2))",
        "int(value)",
        "families/test_families.py::test_a_fraction_is_rounded_not_truncated",
    ),
    Fault(
        "activation order stores permuted columns",
        "levels/gptq.py",
        "        stacked = stacked[order.argsort()]\n",
        "        pass\n",
        "levels/test_gptq.py::test_equals_the_slow_reference",
    ),
    Fault(
        "no group size: scales are never settled",
        "levels/gptq.py",
        "if column % part.width == 0:\n                stop",
        "if column % part.width == 0 and part.width < len(self.order):\n                stop",
        "levels/test_gptq.py::test_whole_row_scales_are_those_of_the_original_rows",
    ),
    Fault(
        "a sparsity of exactly 0 has no threshold",
        "levels/masks.py",
        "    if zeros == 0:\n        return torch.ones_like(scores, dtype=torch.uint8)\n",
        "",
        "levels/test_sparsegpt.py::test_no_zeros_leave_the_weights_and_all_zeros_leave_nothing",
    ),
    Fault(
        "fitness in half precision",
        "models/runner.py",
        "logits = output.float()",
        "logits = output",
        "fitness/test_evaluator.py::test_scores_of_a_model_in_half_precision_are_not_rounded",
    ),
    Fault(
        "top-k KL renormalised over the top k: mass elsewhere is free",
        "fitness/divergence.py",
        "return inside + rest.exp() * (rest - _log_rest(mine))",
        "return (top.softmax(-1) * (top.log_softmax(-1) - mine.log_softmax(-1))).sum(-1)",
        "fitness/test_divergence.py::test_top_k_counts_mass_outside_the_top",
    ),
    Fault(
        "the split of the budget between sizes is frozen at random",
        "search/starts/drawn.py",
        "draft.narrow(group, share)\n        draft.shrink(group, rng)",
        "draft.shrink(range(len(space.units)), rng)",
        "search/starts/test_starts.py::test_the_split_between_groups_is_not_left_to_chance",
    ),
    Fault(
        "the raised unit may be the lowered one",
        "search/moves/mutation.py",
        "lowered = [unit for unit in freed.get(draft.step_up(raised), ()) if unit != raised]",
        "lowered = [*freed.get(draft.step_up(raised), ()), raised]",
        "search/moves/test_mutation.py::test_a_child_fits_and_differs",
    ),
    Fault(
        "the budget goes through a binary float",
        "core/space.py",
        "target = Fraction(str(asked))",
        "target = Fraction(asked) if isinstance(asked, float) else Fraction(str(asked))",
        "core/test_space.py::test_decimal_averages_lose_nothing_to_binary_floats",
    ),
    Fault(
        "what is reported is the last candidate's, not the winner's",
        "search/evolution.py",
        "self.best, self.score = candidates[0][1], scores[order[0]]",
        "self.best, self.score = candidates[0][1], scores[-1]",
        "search/test_evolution.py::test_the_parent_is_scored_again",
    ),
    Fault(
        "two processes write the same files",
        "run/directory.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "cli/test_bad_input.py::test_directory_in_use_by_a_live_process",
    ),
    Fault(
        "a depth-pruned checkpoint keeps the configuration of the whole model",
        "formats/hf.py",
        "save_rest(source.loaded, out, config)",
        "save_rest(source.loaded, out, source.loaded.model.config)",
        "formats/test_hf.py::test_whole_blocks_are_left_out_and_halves_are_zero[llama]",
    ),
    Fault(
        "levels are read from the file for every candidate",
        "fitness/bank.py",
        "            self._keep(key, packed, tensor)\n",
        "",
        "fitness/test_bank.py::test_resident_levels_are_read_once",
    ),
    Fault(
        "the teacher keeps its logits",
        "fitness/teacher.py",
        "self._runner.head_input(ids)[0]",
        "self._runner.head(self._runner.head_input(ids)[0])",
        "fitness/test_evaluator.py::test_the_teacher_keeps_hidden_states_not_logits",
    ),
)


def main() -> int:
    """A line for each fault; 1 when one of them goes unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="the number of one fault")
    parser.add_argument("--list", action="store_true", help="only see that the lines are there")
    options = parser.parse_args()
    numbers = range(1, len(FAULTS) + 1) if options.only is None else [options.only]
    unnoticed = 0
    for number in numbers:
        fault = FAULTS[number - 1]
        with tempfile.TemporaryDirectory() as folder:
            said = verdict(Path(folder) / "copy", fault, run=not options.list)
        sys.stdout.write(f"{number:3}  {said:22}  {fault.name}  ({fault.test})\n")
        sys.stdout.flush()
        unnoticed += not said.startswith(("noticed", "found"))
    return int(unnoticed > 0)


def verdict(copy: Path, fault: Fault, *, run: bool) -> str:
    """What the fault's test says of it, after it passed without; if not `run`, whether there is a line to change."""
    text = (ROOT / "src" / "evopress" / fault.file).read_text(encoding="utf-8")
    if text.count(fault.right) != 1:
        return "NOT FOUND"
    if not run:
        return "found"
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    if ended(copy, fault.test) != 0:
        return "FAILS BEFORE"
    source = copy / "src" / "evopress" / fault.file
    source.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
    return {0: "UNNOTICED", 1: "noticed", None: "noticed (does not end)"}.get(ended(copy, fault.test), "NO TEST")


def ended(copy: Path, test: str) -> int | None:
    """pytest's exit code (1: a test failed); None when it does not end."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{test}"]
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=PATIENCE).returncode
    return None


if __name__ == "__main__":
    sys.exit(main())
