"""Geometry of the figures: numbers in, coordinates out. How they look is the matter of the template and its style.

A chart is a frame with two scales, lines and points; the template `charts.html` draws it as SVG. Coordinates are in the
units of the view box, and all text goes through the template, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LEFT, RIGHT, TOP, BOTTOM = 80, 14, 12, 40


@dataclass(frozen=True)
class Scale:
    """Maps values to coordinates, linearly or by logarithm; `low` goes to `start`, `high` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale."""
        return _decades(self.low, self.high) if self.logarithmic else _steps(self.low, self.high, count)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A marked value; `kind` is a class of the style sheet, `title` what hovering says, `label` what stands beside."""

    x: float
    y: float
    kind: str
    title: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs to draw one figure. `title` says in words what is to be seen."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    line: str = ""
    bars: tuple[Bar, ...] = ()
    zero: float | None = None
    width: int = 520
    height: int = 260
    left: int = field(default=LEFT)
    bottom: int = field(default=BOTTOM)
    top: int = field(default=TOP)
    right: int = field(default=RIGHT)


@dataclass(frozen=True)
class Bar:
    """A column of a bar chart."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Mark:
    """A value to be drawn, in its own units."""

    x: float
    y: float
    kind: str
    title: str
    label: str = ""


def scatter(
    marks: Sequence[Mark], line: Sequence[tuple[float, float]], *, title: str, x_label: str, y_label: str, step: bool
) -> Chart | None:
    """Points and one line through some of them, as steps or straight; None when there is nothing to draw.

    The y axis is logarithmic where positive values span more than a factor of eight.
    """
    if not marks:
        return None
    xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
    x = Scale(*_padded(min(xs), max(xs)), LEFT, 520 - RIGHT)
    logarithmic = min(ys) > 0 and max(ys) > 8 * min(ys)
    low, high = (min(ys) / 1.15, max(ys) * 1.15) if logarithmic else _padded(min(ys), max(ys))
    y = Scale(low, high, 260 - BOTTOM, TOP, logarithmic)
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(Tick(x(tick), short(tick)) for tick in x.ticks()),
        y_ticks=tuple(Tick(y(tick), short(tick)) for tick in y.ticks()),
        points=tuple(Point(x(mark.x), y(mark.y), mark.kind, mark.title, mark.label) for mark in marks),
        line=_path([(x(a), y(b)) for a, b in line], step),
    )


def columns(values: Sequence[tuple[str, float, str]], *, title: str, x_label: str, y_label: str) -> Chart | None:
    """A column for each (name, value, title), upwards or downwards from zero; None when there is none."""
    if not values:
        return None
    height, width = 200, 960
    numbers = [value for _, value, _ in values]
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    y = Scale(low - 0.05 * (high - low), high + 0.05 * (high - low) or 1.0, height - BOTTOM, TOP)
    pitch = (width - LEFT - RIGHT) / len(values)
    every = -(-len(values) // 32)
    bars = []
    for i, (_, value, text) in enumerate(values):
        top, bottom = sorted((y(value), y(0.0)))
        kind = "higher" if value > 0 else "lower"
        left = round(LEFT + i * pitch + 0.12 * pitch, 2)
        bars.append(Bar(left, top, round(0.76 * pitch, 2), round(bottom - top, 2), kind, text))
    names = [Tick(round(LEFT + (i + 0.5) * pitch, 2), name) for i, (name, _, _) in enumerate(values) if i % every == 0]
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(names),
        y_ticks=tuple(Tick(y(tick), signed(tick)) for tick in y.ticks(4)),
        points=(),
        bars=tuple(bars),
        zero=y(0.0),
        width=width,
        height=height,
    )


def short(value: float) -> str:
    """A number for an axis: `1.2k`, `0.05`, `3`.

    >>> short(120_000), short(0.05), short(3.0), short(2_500_000)
    ('120k', '0.05', '3', '2.5M')
    """
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{name}"
    return f"{value:.3g}"


def signed(value: float) -> str:
    """A difference for an axis: `+0.5`, `0`, `−1`."""
    return "0" if value == 0 else f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (max(0.0, low - pad) if low >= 0 else low - pad), high + pad


def _steps(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) <= 7 else [value for value in inside if math.log10(value).is_integer()]


def _path(points: Sequence[tuple[float, float]], step: bool) -> str:
    if not points:
        return ""
    (x, y), *rest = points
    return f"M{x:g} {y:g}" + "".join(f"H{a:g}V{b:g}" if step else f"L{a:g} {b:g}" for a, b in rest)
