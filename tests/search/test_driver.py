"""The loop, and what holds for a whole search: determinism across processes, no torch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from evopress.core.space import SearchSpace
from evopress.search import PRESETS, BatchResult, Evaluate, Evolution, Schedule, Stage, Uniform, run_search

Toy = Callable[..., SearchSpace]
Fitness = Callable[..., Evaluate]

SEARCH = """
import sys
from random import Random
from evopress.core.profile import Level, Unit
from evopress.search import *
from evopress.core.space import make_space

sizes = {"q": 9, "k": 3, "up": 24, "down": 24}
units = [Unit(f"{b}.{r}", b, r, s, tuple(Level(str(n), n * s) for n in (2, 3, 4, 5)))
         for b in range(6) for r, s in sizes.items()]
space = make_space(units, average="2.7", exchange="any")
quick = PRESETS["bits"]["quick"]
stages = validate_schedule(quick.offspring, quick.survivors, quick.tokens)
schedule = Schedule(generations=quick.generations, offspring=quick.offspring, stages=stages)
search = Evolution(space, Random(5), schedule, mutate=make_mutation("adaptive"))
with Journal(sys.argv[1], seed=5, fingerprint={"a": 1}) as journal:
    run_search(search, lambda ps, t: [sum(3.0 ** -int(n) for n in p.levels[::2]) for p in ps], journal)
"""


def python(code: str, *arguments: str, **environment: str) -> str:
    """The output of another interpreter that sees the same packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_same_seed_in_another_process_gives_the_same_journal(tmp_path: Path) -> None:
    for hash_seed in "12":
        python(SEARCH, str(tmp_path / hash_seed), PYTHONHASHSEED=hash_seed)
    one, two = (tmp_path / name for name in "12")
    assert one.read_bytes() == two.read_bytes()
    quick = PRESETS["bits"]["quick"]
    assert quick.generations is not None
    assert one.read_bytes().count(b"\n") == 1 + 1 + quick.generations * len(quick.tokens)


def test_search_loads_no_torch() -> None:
    loaded = python("import sys, evopress.search; print(*sys.modules)").split()
    assert "evopress.search.evolution" in loaded
    assert not {"torch", "transformers"} & set(loaded)


def test_observers_see_every_batch(toy: Toy, fitness: Fitness) -> None:
    space = toy()
    seen: list[BatchResult] = []
    search = Evolution(space, Random(0), Schedule(generations=2, offspring=3, stages=(Stage(1, 2), Stage(4, 1))))
    best = run_search(search, fitness(space), on_batch=seen.append)
    assert [(s.batch.generation, s.batch.stage, s.batch.tokens) for s in seen] == [
        (1, 0, 1),
        (1, 1, 4),
        (2, 0, 1),
        (2, 1, 4),
    ]
    assert [s.accepted is None for s in seen] == [True, False, True, False]
    assert (seen[-1].best, seen[-1].score, seen[-1].replayed) == (best, search.score, False)
    assert all(s.scores == tuple(fitness(space)(s.batch.profiles, 1)) for s in seen)


def test_an_evaluate_that_loses_scores_is_found_out(toy: Toy) -> None:
    with pytest.raises(ValueError, match="0 scores for 1 profiles"):
        run_search(Uniform(toy(), tokens=1), lambda profiles, tokens: [])
