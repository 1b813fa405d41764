"""Search: strategies that propose profiles and are told scores. Standard library and numpy only; never torch.

A search knows nothing of models. Start at `types`, then `evolution`; parts in `moves`, `starts`, `baselines`. It runs
in milliseconds on a toy function:

>>> from random import Random
>>> from evopress.core.profile import Level, Unit
>>> from evopress.core.space import make_space
>>> units = [Unit(f"u{i}", i, "u", 1, (Level("2", 2), Level("3", 3), Level("4", 4))) for i in range(6)]
>>> space = make_space(units, average=3, exchange="any")
>>> def evaluate(profiles, tokens):  # the last unit matters most
...     return [-sum(i * level for i, level in enumerate(space.encode(p))) for p in profiles]
>>> schedule = Schedule(generations=50, offspring=8, stages=[Stage(tokens=1, survivors=1)])
>>> search = Evolution(space, Random(0), schedule)
>>> run_search(search, evaluate).levels
('2', '2', '2', '4', '4', '4')
"""

from evopress.search.baselines.best_of import BestOf
from evopress.search.baselines.brute_force import BruteForce, count_profiles
from evopress.search.baselines.greedy import Greedy
from evopress.search.baselines.knapsack import Knapsack, knapsack
from evopress.search.baselines.owl import Owl
from evopress.search.baselines.shortened_llama import ShortenedLlama
from evopress.search.baselines.shortgpt import ShortGPT
from evopress.search.baselines.sliding_window import SlidingWindow
from evopress.search.baselines.subcloning import WeightSubcloning
from evopress.search.baselines.uniform import Uniform
from evopress.search.driver import run_search
from evopress.search.effort import Effort
from evopress.search.evolution import Evolution
from evopress.search.journal import Journal
from evopress.search.moves.mutation import Mutation, bands, equal_switches, free_switches, mixed
from evopress.search.presets import PRESETS, Preset, make_mutation
from evopress.search.racing import Race
from evopress.search.stages import Schedule, Stage, validate_schedule
from evopress.search.stopping import Limits, Stopper
from evopress.search.types import Batch, BatchResult, Evaluate, Strategy

__all__ = [
    "PRESETS",
    "Batch",
    "BatchResult",
    "BestOf",
    "BruteForce",
    "Effort",
    "Evaluate",
    "Evolution",
    "Greedy",
    "Journal",
    "Knapsack",
    "Limits",
    "Mutation",
    "Owl",
    "Preset",
    "Race",
    "Schedule",
    "ShortGPT",
    "ShortenedLlama",
    "SlidingWindow",
    "Stage",
    "Stopper",
    "Strategy",
    "Uniform",
    "WeightSubcloning",
    "bands",
    "count_profiles",
    "equal_switches",
    "free_switches",
    "knapsack",
    "make_mutation",
    "mixed",
    "run_search",
    "validate_schedule",
]
