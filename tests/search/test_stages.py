"""A schedule that cannot work ends in one line before anything is scored."""

import pytest

from evopress.errors import ScheduleError
from evopress.search import Stage, validate_schedule


def test_a_valid_schedule() -> None:
    assert validate_schedule(4, [4, 1], [8, 8], 8, generations=0) == (Stage(8, 4), Stage(8, 1))


@pytest.mark.parametrize(
    ("offspring", "survivors", "tokens", "available", "generations", "message"),
    [
        (4, [2, 1], [8], None, 1, "2 survivors but 1 token counts"),
        (4, [], [], None, 1, "0 survivors"),
        (4, [1, 2, 1], [8, 8, 8], None, 1, "1,2,1 grow"),
        (4, [2], [8], None, 1, "end with 2"),
        (4, [0], [8], None, 1, "end with 0"),
        (4, [5, 1], [8, 8], None, 1, "more than the 4 offspring"),
        (0, [1], [8], None, 1, "offspring is 0"),
        (4, [1], [0], None, 1, "at least 1"),
        (4, [2, 1], [16, 8], None, 1, "16,8 shrink"),
        (4, [2, 1], [8, 16], 15, 1, "16 tokens needs more than the 15"),
        (4, [1], [8], None, -1, "generations is -1"),
    ],
)
def test_bad_schedules(
    offspring: int, survivors: list[int], tokens: list[int], available: int | None, generations: int, message: str
) -> None:
    with pytest.raises(ScheduleError, match=message) as caught:
        validate_schedule(offspring, survivors, tokens, available, generations=generations)
    assert "\n" not in str(caught.value)
