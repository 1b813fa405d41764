"""Do layer errors add up? The correlation of their sum with the true score (paper, section 3: error monotonicity).

Methods that pick levels by dynamic programming assume that a profile with a smaller sum of layer errors is a better
model. Here that is measured: random profiles of one budget, the sum of each, the score of each. It costs one score for
each profile; 100 profiles tell a rank correlation to about 0.2. That more compression can even be better is the matter
of `evopress.analysis.supersets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evopress.analysis.statistics import finite, interval, pearson, require_enough, spearman
from evopress.analysis.table import Table
from evopress.core.profile import Profile
from evopress.errors import ProfileError
from evopress.search.baselines.knapsack import Errors
from evopress.search.types import Evaluate


@dataclass(frozen=True)
class ErrorCorrelation:
    """How well sums of layer errors tell scores: `sums[i]` and `scores[i]` belong to one profile.

    `low` and `high` are about 95 % limits of `spearman`. Profiles whose sum or score is not finite are `left_out`.
    """

    tokens: int
    left_out: int
    pearson: float
    spearman: float
    low: float
    high: float
    sums: tuple[float, ...]
    scores: tuple[float, ...]


def correlate_errors(
    evaluate: Evaluate, errors: Errors, profiles: Sequence[Profile], *, tokens: int
) -> ErrorCorrelation:
    """Correlate the sums of `errors[unit][level]` with the scores of `profiles`, all on one minibatch of that size.

    Profiles should differ in nothing but where they spend one budget, as those of
    `evopress.analysis.populations.random_profiles`. ProfileError when an error is missing, ConfigError when fewer than
    three profiles have finite numbers.
    """
    sums = [error_sum(errors, profile) for profile in profiles]
    scores = evaluate(profiles, tokens)
    kept = finite(sums, scores)
    require_enough(kept, len(profiles))
    sums, scores = [sums[i] for i in kept], [scores[i] for i in kept]
    rank = spearman(sums, scores)
    low, high = interval(rank, len(kept))
    return ErrorCorrelation(
        tokens=tokens,
        left_out=len(profiles) - len(kept),
        pearson=pearson(sums, scores),
        spearman=rank,
        low=low,
        high=high,
        sums=tuple(sums),
        scores=tuple(scores),
    )


def error_sum(errors: Errors, profile: Profile) -> float:
    """The sum of `errors[unit][level]` over a profile; ProfileError names the first that is missing.

    >>> error_sum({"q": {"3": 0.25}, "k": {"4": 0.5}}, Profile.of({"q": "3", "k": "4"}))
    0.75
    """
    try:
        return sum(float(errors[name][level]) for name, level in profile.items())
    except KeyError as missing:
        raise ProfileError(f"no error is known for {missing}; the sum needs one for every unit and level") from None


def error_table(found: ErrorCorrelation) -> Table:
    """Both correlations, and what trusting the sum would cost among these profiles."""
    chosen = found.scores[found.sums.index(min(found.sums))]
    rows = (
        ("rank correlation (Spearman)", f"{found.spearman:.3f} ({found.low:.2f} to {found.high:.2f})"),
        ("correlation (Pearson)", f"{found.pearson:.3f}"),
        ("score of the profile with the least sum", f"{chosen:.5g}"),
        ("best score", f"{min(found.scores):.5g}"),
        ("worst score", f"{max(found.scores):.5g}"),
        ("profiles without finite numbers", f"{found.left_out}"),
    )
    title = f"sum of layer errors against the score: {len(found.sums)} random profiles, {found.tokens} tokens"
    return Table(title, ("", "value"), rows)
