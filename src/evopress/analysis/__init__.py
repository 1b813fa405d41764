"""The analyses that the paper argues with: why a search on whole models, and why in stages.

    monotonicity   do layer errors add up? Their sum against the true score, over random profiles
    supersets      is dropping more ever better? Drop sets inside one another, with both scores
    landscape      what single switches of a profile do, and how far they predict several
    noise          how many tokens order profiles, and what each stage of a schedule throws away

Each is a function of a space, a scoring function, a random generator and sizes, gives a frozen dataclass of plain
numbers (`dataclasses.asdict` of it is JSON), a `Table` and a figure. Nothing here knows models, run directories or the
screen; drawing alone needs matplotlib. Start at `monotonicity`.
"""

from evopress.analysis.figures import draw_comparison, draw_errors, draw_landscape, draw_noise, draw_supersets
from evopress.analysis.landscape import Distance, Landscape, Neighbour, distance_table, explore, neighbour_table
from evopress.analysis.monotonicity import ErrorCorrelation, correlate_errors, error_table
from evopress.analysis.noise import (
    Agreement,
    Noise,
    PieceScores,
    StageLoss,
    agreement_table,
    cuts,
    measure_noise,
    piece_scores,
    stage_table,
)
from evopress.analysis.populations import random_profiles, worst
from evopress.analysis.supersets import (
    Pair,
    Supersets,
    Turns,
    find_supersets,
    profile_that_drops,
    rescore,
    superset_table,
)
from evopress.analysis.table import Table

__all__ = [
    "Agreement",
    "Distance",
    "ErrorCorrelation",
    "Landscape",
    "Neighbour",
    "Noise",
    "Pair",
    "PieceScores",
    "StageLoss",
    "Supersets",
    "Table",
    "Turns",
    "agreement_table",
    "correlate_errors",
    "cuts",
    "distance_table",
    "draw_comparison",
    "draw_errors",
    "draw_landscape",
    "draw_noise",
    "draw_supersets",
    "error_table",
    "explore",
    "find_supersets",
    "measure_noise",
    "neighbour_table",
    "piece_scores",
    "profile_that_drops",
    "random_profiles",
    "rescore",
    "stage_table",
    "superset_table",
    "worst",
]
