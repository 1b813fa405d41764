"""What dropping each part does, by real scores: levels have sensitivities, drops are too large for an expansion.

One call of the evaluator at one minibatch: the profile of the expansion, and the same without one part, for each part.
Candidates that agree so far share what they have computed, so the cost is about half a pass of the model for each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evopress.core.bundles import dropped
from evopress.core.profile import DROP, Profile
from evopress.core.space import SearchSpace
from evopress.fitness.sensitivity import Sensitivity


def without_each(space: SearchSpace, profile: Profile) -> tuple[Profile, ...]:
    """The profile, and for each bundle of the space what it is without that one."""
    levels = list(space.encode(profile))
    found = [profile]
    for bundle in space.bundles:
        found.append(space.decode([0 if unit in bundle else level for unit, level in enumerate(levels)]))
    return tuple(found)


def with_drops(found: Sensitivity, space: SearchSpace, scores: Sequence[float]) -> Sensitivity:
    """Sensitivities with the level `drop`, a bundle's harm shared by its weights; `scores` are of `without_each`.

    Harm is taken for curvature: what distrusts sums (gamma) distrusts drops as it does levels. A gain is slope.
    """
    slope = {unit: dict(own) for unit, own in found.slope.items()}
    curvature = {unit: dict(own) for unit, own in found.curvature.items()}
    for bundle, score in zip(space.bundles, scores[1:], strict=True):
        names = [name for unit in bundle for name in space.units[unit].named]
        for name in names:
            change = (score - scores[0]) / len(names)
            slope[name][DROP], curvature[name][DROP] = min(change, 0.0), max(change, 0.0)
    return replace(found, slope=slope, curvature=curvature)


def levels_kept(space: SearchSpace) -> Mapping[str, list[str]]:
    """The levels of each unit, by the names that profiles have, that leave it in the model."""
    return {
        name: [level.name for level in unit.levels[floor:]]
        for unit, floor in zip(space.units, space.floors, strict=True)
        for name in unit.named
    }


def nothing_dropped(space: SearchSpace, profile: Profile, like: Profile) -> Profile:
    """The profile with the levels of `like`, which drops nothing, in the place of what it drops."""
    if not dropped(space.bundles, space.encode(profile)):
        return profile
    kept = dict(like.items())
    return Profile.of({name: kept[name] if level == DROP else level for name, level in profile.items()})
