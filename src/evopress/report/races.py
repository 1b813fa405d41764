"""What a journal tells of races: how each loser compares with the profile that its generation ended with.

Who stops early has read less of the text than the others, so its mean score is that of another text and says nothing
beside theirs. Its difference from the winner on the parts that both have read does. Which runner a score belongs to is
not in the journal, but a race is a function of its scores and so is run again from them, in microseconds.

One thing cannot be had: a child that the same parent has beaten before is not scored again where it was, and no line
says which one it is. Nothing is said of the losers of such a race.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from evopress.search.racing import STANDARD, Track


def rerun(batches: Sequence[Mapping[str, Any]], stage: int, children: int, parent: dict[int, float]) -> Track | None:
    """The race of a generation from its lines in the journal; None when they do not tell who scored what.

    `stage` is the number of the race's first part, `children` how many ran against the parent. `parent` are the scores
    of parents by part of the text, of all races before; those of this race are added. A line has no score of what was
    known, and the parent comes first in it.
    """
    track, whole = Track(STANDARD, children), True
    for batch in batches:
        part, scores = batch.get("part"), batch["scores"]
        if part in parent:
            scores = [parent[part], *scores]
        elif part is not None:
            parent[part] = scores[0]
        step = batch["stage"] - stage
        whole = whole and step == len(track.scores[0]) and len(scores) == len(track.running)
        if whole:
            track.add(scores)
    return track if whole else None


def losers(track: Track) -> tuple[float, ...]:
    """The winner's mean score plus each loser's mean difference from it on the loser's parts, the old parent first.

    >>> track = Track(STANDARD, children=1)
    >>> for part in (0.0, 1.0, 2.0):
    ...     track.add([part + 1.0, part + 3.0 + part / 8])
    >>> track.winner, losers(track)
    (0, (4.125,))
    """
    winner, mean = track.scores[track.winner], track.mean(track.winner)
    gaps = [
        [own - best for own, best in zip(scores, winner, strict=False)]  # the winner has read every part
        for runner, scores in track.scores.items()
        if runner != track.winner
    ]
    return tuple(mean + statistics.fmean(gap) for gap in gaps if math.isfinite(sum(gap)))
