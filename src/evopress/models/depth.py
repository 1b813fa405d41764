"""The space of depth pruning: units with the levels `drop` and `keep`, and the official code's drop configs.

Everything here is names and integers; what dropping does to a model is the matter of `evopress.models.bypass`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args

from evopress.core.profile import DROP, KEEP, Level, Profile, Unit
from evopress.errors import ConfigError, ProfileError
from evopress.models.sublayers import Granularity, SubLayer, group_sublayers

Cost = Literal["count", "parameters", "bytes"]
"""What keeping a sub-layer costs: one, its number of parameters, or the bytes these take in the model's dtype."""

NONE = "none"
"""Word of a drop config for a block of which nothing is dropped; else it is the kinds that are, with + between them."""


def depth_units(
    sublayers: Sequence[SubLayer],
    granularity: Granularity = "sublayer",
    cost: Cost = "count",
    protected: Collection[str] = (),
) -> tuple[Unit, ...]:
    """One unit for each group of sub-layers that is dropped as one; `keep` costs the sum over the group, `drop` zero.

    A unit's role is `attn`, `mlp` or `attn+mlp`, its size the number of its parameters, its block the first one of the
    group. A unit whose own name, or that of a sub-layer or block in it or around it, is in `protected` can only `keep`.
    `count` counts sub-layers at every granularity. ConfigError for an unknown cost, granularity or protected name.

    >>> from evopress.models import describe, find_sublayers
    >>> from evopress.testing import pico_model
    >>> model = pico_model("llama", blocks=2)
    >>> for unit in depth_units(find_sublayers(model, describe(model)), protected=["model.layers.0.mlp"]):
    ...     print(unit.name, unit.role, unit.size, [(level.name, level.cost) for level in unit.levels])
    model.layers.0.attn attn 6960 [('drop', 0), ('keep', 1)]
    model.layers.0.mlp mlp 13872 [('keep', 1)]
    model.layers.1.attn attn 6960 [('drop', 0), ('keep', 1)]
    model.layers.1.mlp mlp 13872 [('drop', 0), ('keep', 1)]
    """
    if cost not in get_args(Cost):
        raise ConfigError(f"unknown cost {cost!r}; use {', '.join(get_args(Cost))}")
    groups = group_sublayers(sublayers, granularity)
    names = {name: {name, *_names(group)} for name, group in groups.items()}
    if unknown := sorted(set(protected) - set().union(*names.values())):
        raise ConfigError(f"unknown protected unit {unknown[0]!r}; use one of {', '.join(groups)}, or a block")
    units = []
    for name, group in groups.items():
        keep = Level(KEEP, sum(1 if cost == "count" else int(getattr(sublayer, cost)) for sublayer in group))
        levels = (keep,) if names[name] & set(protected) else (Level(DROP, 0), keep)
        role = "+".join(dict.fromkeys(sublayer.kind for sublayer in group))
        units.append(Unit(name, group[0].block, role, sum(sublayer.parameters for sublayer in group), levels))
    return tuple(units)


def sublayer_levels(
    levels: Mapping[str, str], sublayers: Sequence[SubLayer], granularity: Granularity
) -> dict[str, str]:
    """Levels of units -> levels of the sub-layers in them; ProfileError unless each unit is named once."""
    groups = group_sublayers(sublayers, granularity)
    _require_names(levels, groups)
    return {sublayer.name: levels[name] for name, group in groups.items() for sublayer in group}


def dropped_sublayers(profile: Profile, sublayers: Sequence[SubLayer], granularity: Granularity) -> list[SubLayer]:
    """The sub-layers that a profile drops, in the model's order."""
    levels = sublayer_levels(dict(profile.items()), sublayers, granularity)
    return [sublayer for sublayer in sublayers if levels[sublayer.name] == DROP]


def unit_levels(levels: Mapping[str, str], sublayers: Sequence[SubLayer], granularity: Granularity) -> dict[str, str]:
    """The inverse of `sublayer_levels`; ProfileError for a unit of which only a part is dropped."""
    _require_names(levels, [sublayer.name for sublayer in sublayers])
    found = {}
    for name, group in group_sublayers(sublayers, granularity).items():
        different = {levels[sublayer.name] for sublayer in group}
        if len(different) > 1:
            raise ProfileError(f"only a part of {name} is dropped; drop all of a {granularity}, or nothing")
        found[name] = different.pop()
    return found


def parse_drop_config(text: str, sublayers: Sequence[SubLayer]) -> dict[str, str]:
    """The official code's drop config -> sub-layer name: `drop` or `keep`.

    One line for each block says what is dropped there: `none`, `attn`, `mlp` or `attn+mlp`, and more in models whose
    blocks have more. Blank lines at the end do not count. ProfileError names the first line that is something else, or
    the number of lines.
    """
    blocks = _by_block(sublayers)
    lines = text.rstrip().splitlines()
    for number, (line, block) in enumerate(zip(lines, blocks, strict=False), start=1):
        words = _words(block)
        if line.strip() not in words:
            raise ProfileError(f"line {number} of the drop config is {line!r}; expected {', '.join(words)}")
    if len(lines) != len(blocks):
        odd = f"{len(blocks) + 1} is too many" if len(lines) > len(blocks) else f"{len(lines) + 1} is missing"
        raise ProfileError(
            f"the drop config has {len(lines)} lines for {len(blocks)} blocks: line {odd}; give one line for each block"
        )
    return {
        sublayer.name: DROP if sublayer.kind in line.strip().split("+") else KEEP
        for line, block in zip(lines, blocks, strict=True)
        for sublayer in block
    }


def format_drop_config(levels: Mapping[str, str], sublayers: Sequence[SubLayer]) -> str:
    """The inverse of `parse_drop_config`; ProfileError unless each sub-layer is named with `drop` or `keep`."""
    _require_names(levels, [sublayer.name for sublayer in sublayers])
    for name, level in levels.items():
        if level not in (DROP, KEEP):
            raise ProfileError(f"unit {name}: unknown level {level!r}, it has {DROP}, {KEEP}")
    dropped = ["+".join(s.kind for s in block if levels[s.name] == DROP) for block in _by_block(sublayers)]
    return "".join(f"{kinds or NONE}\n" for kinds in dropped)


def _words(block: Sequence[SubLayer]) -> list[str]:
    """What a line can say of a block with these sub-layers."""
    kinds = [sublayer.kind for sublayer in block]
    return [NONE, *("+".join(some) for count in range(1, len(kinds) + 1) for some in combinations(kinds, count))]


def _by_block(sublayers: Sequence[SubLayer]) -> list[tuple[SubLayer, ...]]:
    return list(group_sublayers(sublayers, "block").values())


def _names(group: Sequence[SubLayer]) -> set[str]:
    """The names of a unit's sub-layers and blocks."""
    own = {sublayer.name for sublayer in group}
    return own | {name.rpartition(".")[0] for name in own}


def _require_names(levels: Mapping[str, str], names: Collection[str]) -> None:
    if odd := sorted(levels.keys() ^ set(names)):
        side = "unknown to the model" if odd[0] in levels else "missing from the profile"
        raise ProfileError(f"unit {odd[0]!r} is {side}; a profile names each of the model's {len(names)} units once")
