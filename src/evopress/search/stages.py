"""Multi-step selection: cheap scores first, expensive ones for the few that survive (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from evopress.errors import ScheduleError


@dataclass(frozen=True, slots=True)
class Stage:
    """Score the candidates on `tokens` tokens and keep the best `survivors`."""

    tokens: int
    survivors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long a search is: `generations` of `offspring`, chosen in `stages`. ScheduleError where these do not fit.

    The candidates for the first parent are scored on `start_tokens` tokens, on the first stage's without it.
    """

    generations: int
    offspring: int
    stages: Sequence[Stage]
    start_tokens: int | None = None

    def __post_init__(self) -> None:
        survivors, tokens = [stage.survivors for stage in self.stages], [stage.tokens for stage in self.stages]
        validate_schedule(self.offspring, survivors, tokens, generations=self.generations)

    @property
    def first_tokens(self) -> int:
        """What the candidates for the first parent are scored on."""
        return self.stages[0].tokens if self.start_tokens is None else self.start_tokens


def validate_schedule(
    offspring: int,
    survivors: Sequence[int],
    tokens: Sequence[int],
    available_tokens: int | None = None,
    *,
    generations: int = 0,
) -> tuple[Stage, ...]:
    """The stages of a schedule, or a ScheduleError that names the first thing wrong with it.

    Survivors must not grow and end at 1; tokens must be positive and not shrink, as a later stage that looks less
    closely than an earlier one undoes its work; no stage may need more tokens than there are.

    >>> validate_schedule(128, [16, 4, 1], [2048, 16384, 131072])[1]
    Stage(tokens=16384, survivors=4)
    """
    shown = f"survivors {_text(survivors)}"
    if generations < 0:
        raise ScheduleError(f"generations is {generations}; it must be 0 or more")
    if offspring < 1:
        raise ScheduleError(f"offspring is {offspring}; it must be 1 or more")
    if not survivors or len(survivors) != len(tokens):
        raise ScheduleError(f"{len(survivors)} survivors but {len(tokens)} token counts; give one of each per stage")
    if any(a < b for a, b in pairwise(survivors)):
        raise ScheduleError(f"{shown} grow from one stage to the next; they must not")
    if survivors[-1] != 1:
        raise ScheduleError(f"{shown} end with {survivors[-1]}; the last stage must keep exactly 1")
    if survivors[0] > offspring:
        raise ScheduleError(f"{shown} ask for more than the {offspring} offspring; raise offspring or keep fewer")
    if min(tokens) < 1:
        raise ScheduleError(f"tokens {_text(tokens)} hold {min(tokens)}; every stage needs at least 1")
    if any(a > b for a, b in pairwise(tokens)):
        raise ScheduleError(f"tokens {_text(tokens)} shrink from one stage to the next; they must not")
    if available_tokens is not None and tokens[-1] > available_tokens:
        raise ScheduleError(
            f"a stage of {tokens[-1]} tokens needs more than the {available_tokens} that exist; lower it or add text"
        )
    return tuple(Stage(tokens=t, survivors=s) for t, s in zip(tokens, survivors, strict=True))


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
