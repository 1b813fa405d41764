"""Which unit got which level: the heat map's cells, what changed against uniform, and where the bytes went.

By role, by level (what is dropped is one), by block, and for the whole model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evopress.core.profile import DENSE_BITS, DROP, Unit
from evopress.report.data import RunData

DROPPED = -3
"""What dropping counts in steps: the heat map shows it as plainly as a unit that lost three levels."""

ENDS = "embedding and head"


@dataclass(frozen=True)
class Cell:
    """One unit with its level. `uniform` is its level in the uniform profile, `step` how many levels lie between.

    `bytes` is what the level stores, `error` its relative layer error, None where there is none.
    """

    unit: Unit
    level: str
    uniform: str | None
    step: int
    bytes: int
    error: float | None


@dataclass(frozen=True)
class Summary:
    """Some units taken together: how many have a higher, the same and a lower level than uniform.

    Where there is no uniform profile, those dropped are the lower ones. `share` is of all units' weights. `average` and
    `uniform` are costs for each weight, in the budget's own quantum.
    """

    name: str
    units: int
    higher: int
    same: int
    lower: int
    share: float
    average: float
    uniform: float | None
    bytes: int
    dense: int


@dataclass(frozen=True)
class Parts:
    """Bytes of a whole model by what they hold: compressed weights by their place, scales and masks, and the rest."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())


def cells(run: RunData) -> tuple[Cell, ...]:
    """All units in the model's order; none before there is a profile."""
    space = run.search_space
    if space is None or not run.choice:
        return ()
    return tuple(_cell(run, unit) for unit in space.units)


def _cell(run: RunData, unit: Unit) -> Cell:
    level, uniform = run.choice[unit.name], run.uniform.get(unit.name)
    stored = run.levels[unit.name][level]
    step = 0 if uniform is None else unit.index(level) - unit.index(uniform)
    step = DROPPED if level == DROP else step
    return Cell(unit, level, uniform, step, -(-stored["bits"] // 8), stored["error"])


def by_role(found: tuple[Cell, ...]) -> tuple[Summary, ...]:
    """One summary for each role, in the order of the model."""
    roles = dict.fromkeys(cell.unit.role for cell in found)
    return tuple(_summary(role, [cell for cell in found if cell.unit.role == role], found) for role in roles)


def by_level(found: tuple[Cell, ...]) -> tuple[Summary, ...]:
    """One summary for each level that a unit has, the one of the fewest bytes a weight first."""
    kinds: dict[str, list[Cell]] = {}
    for cell in found:
        kinds.setdefault(cell.level, []).append(cell)
    summaries = [_summary(level, own, found) for level, own in kinds.items()]
    return tuple(sorted(summaries, key=lambda own: own.bytes / own.dense))


def by_block(found: tuple[Cell, ...]) -> tuple[Summary, ...]:
    """One summary for each block, from the first to the last; embedding and head belong to none."""
    blocks = sorted({cell.unit.block for cell in found if in_block(cell.unit)})
    return tuple(
        _summary(str(block), [cell for cell in found if cell.unit.block == block and in_block(cell.unit)], found)
        for block in blocks
    )


def in_block(unit: Unit) -> bool:
    """Whether a unit lies in a decoder block: embedding and head carry no number in their names."""
    return any(part.partition("-")[0].isdigit() for part in unit.name.split("."))


def _summary(name: str, members: list[Cell], everything: tuple[Cell, ...]) -> Summary:
    size = sum(cell.unit.size for cell in members)
    steps = Counter((cell.step > 0) - (cell.step < 0) for cell in members)
    uniform = None
    if all(cell.uniform is not None for cell in members):
        uniform = sum(_cost(cell.unit, str(cell.uniform)) for cell in members) / size
    return Summary(
        name=name,
        units=len(members),
        higher=steps[1],
        same=steps[0],
        lower=steps[-1],
        share=size / sum(cell.unit.size for cell in everything),
        average=sum(_cost(cell.unit, cell.level) for cell in members) / size,
        uniform=uniform,
        bytes=sum(cell.bytes for cell in members),
        dense=sum(DENSE_BITS * cell.unit.size // 8 for cell in members),
    )


def _cost(unit: Unit, level: str) -> int:
    return unit.levels[unit.index(level)].cost


def bytes_of(run: RunData) -> tuple[Parts, ...]:
    """Where the bytes of the dense, the uniform and the searched model are; without uniform where there is none."""
    space = run.search_space
    if space is None or not run.choice:
        return ()
    dense = {name: {"bits": DENSE_BITS * unit.size, "codes": DENSE_BITS * unit.size} for name, unit in _units(run)}
    found = [_parts("dense", run, dense)]
    for name, choice in (("uniform", run.uniform), ("searched", run.choice)):
        if choice:
            found.append(_parts(name, run, {unit: run.levels[unit][level] for unit, level in choice.items()}))
    return tuple(found)


def _parts(name: str, run: RunData, stored: Mapping[str, Mapping[str, Any]]) -> Parts:
    parts: dict[str, int] = {}
    for unit_name, unit in _units(run):
        place = unit.role.split(".")[0] if in_block(unit) else ENDS
        parts[place] = parts.get(place, 0) + stored[unit_name]["codes"]
    overhead = sum(level["bits"] - level["codes"] for level in stored.values())
    rest = _rest(run, name)
    whole = parts | ({OVERHEAD: overhead} if overhead else {}) | ({REST: 8 * rest} if rest else {})
    return Parts(name, {part: bits // 8 for part, bits in whole.items()})


OVERHEAD = "scales, zeros and masks"
REST = "not compressed"


def _rest(run: RunData, name: str) -> int:
    """Bytes of what no unit covers; 0 while nothing has recorded the size of the whole model.

    The dense model has its own: the searched one's may hold zeros of dropped halves, or a file's metadata.
    """
    if name == "dense" and run.evaluation is not None:
        whole = run.evaluation["profiles"]["dense"]["bytes"]
        own = sum(DENSE_BITS * unit.size for _, unit in _units(run))
    else:
        whole = (run.profile or {}).get("bytes", 0)
        own = sum(run.levels[unit][level]["bits"] for unit, level in run.choice.items())
    return int(max(0, whole - own // 8))


def _units(run: RunData) -> list[tuple[str, Unit]]:
    space = run.search_space
    return [(unit.name, unit) for unit in space.units] if space else []
