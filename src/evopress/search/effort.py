"""What a strategy is going to cost, known before it starts, so that nobody waits for an answer that takes a week."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """At most `profiles` profiles are scored, on `tokens` tokens each.

    >>> print(Effort(3003, 2048).text(tokens_per_second=1500))
    3003 profiles on 2048 tokens each, 6150144 tokens: about 1 h 8 min at 1500 tokens a second
    """

    profiles: int
    tokens: int

    def seconds(self, tokens_per_second: float) -> float:
        """The time it takes if nothing is shared between profiles."""
        return self.profiles * self.tokens / tokens_per_second

    def text(self, tokens_per_second: float | None = None) -> str:
        """One line: the count, and the time where the speed is known."""
        line = f"{self.profiles} profiles on {self.tokens} tokens each, {self.profiles * self.tokens} tokens"
        if tokens_per_second is None:
            return line
        return f"{line}: about {_duration(self.seconds(tokens_per_second))} at {tokens_per_second:.0f} tokens a second"


def _duration(seconds: float) -> str:
    """Two units at most: 40 s, 12 min, 1 h 8 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
