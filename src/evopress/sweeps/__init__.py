"""Sweeps: several runs of one model, each started from its neighbour's result.

    front     the budgets that one asks for, one after the other
    quality   the smallest budget at which the model is as good as one asks for, by bisection

They know the pipeline, as a user does. Start at `front`.
"""

from evopress.sweeps.front import plan, run_sweep, sweep, table
from evopress.sweeps.quality import Goal, find_smallest, parse_goal, smallest

__all__ = ["Goal", "find_smallest", "parse_goal", "plan", "run_sweep", "smallest", "sweep", "table"]
