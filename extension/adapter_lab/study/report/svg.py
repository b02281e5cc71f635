"""Charts as inline SVG: lines and points with error bars, coloured by the page's classes c0, c1, ... in two themes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 680, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 118, 14, 44  # names of the lines stand on the right
LABEL_HEIGHT = 13
COLOURS = 12
MARKERS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Series:
    """A line, or with `line` False only points; `errors` are half heights (and `x_errors` half widths) of bars.

    `number` chooses colour and marker, `labels` are what the points say when pointed at.
    """

    name: str
    number: int
    xs: Sequence[float]
    ys: Sequence[float]
    errors: Sequence[float | None] = ()
    x_errors: Sequence[float | None] = ()
    labels: Sequence[str] = ()
    line: bool = True
    markers: bool = True
    name_at: int = -1  # index of the point that the name stands beside, in a chart of points


@dataclass(frozen=True)
class Chart:
    """A chart of several series; `logarithmic` is for the y axis, `level` a dashed horizontal line with a name."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    logarithmic: bool = False
    level: tuple[str, float] | None = None
    note: str = ""

    def svg(self) -> str:
        """The chart as an SVG element."""
        return _Drawing(self).svg()


@dataclass
class Axis:
    """Maps values to pixels; `ticks` are round values inside its range."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    ticks: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, values: Iterable[float], start: float, end: float, logarithmic: bool = False) -> Axis:
        """An axis over finite values (positive ones, if logarithmic) with a little room."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)] or [0.1, 1.0]
        if logarithmic:
            low, high = math.log10(min(finite)), math.log10(max(finite))
            low, high = (low - 0.3, high + 0.3) if high - low < 0.1 else (low - 0.05, high + 0.05)
            axis = cls(10**low, 10**high, start, end, True)
            axis.ticks = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
            if len(axis.ticks) < 2:
                axis.ticks = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
                axis.ticks = [tick for tick in axis.ticks if axis.low <= tick <= axis.high]
            return axis
        low, high = min(finite), max(finite)
        room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        low, high = (0.0 if 0 <= low < room * 5 else low - room), high + room
        axis = cls(low, high, start, end)
        axis.ticks = nice_ticks(low, high)
        return axis

    def place(self, value: float) -> float:
        """The pixel of a value, those outside moved to the edge."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) between two numbers."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def spread_labels(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to the given ones as possible, in their order, at least `gap` apart and between two bounds."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    found = [0.0] * len(places)
    below = low
    for index in order:
        found[index] = below = max(places[index], below)
        below += gap
    above = high
    for index in reversed(order):
        found[index] = above = min(found[index], above)
        above -= gap
    return found


def number(value: float) -> str:
    """A tick's number, short."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.6g}"


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        xs = [x + s * (e or 0) for line in chart.series for x, e in _with(line.xs, line.x_errors) for s in (-1, 1)]
        ys = [y + s * (e or 0) for line in chart.series for y, e in _with(line.ys, line.errors) for s in (-1, 1)]
        ys += [chart.level[1]] if chart.level else []
        self.x = Axis.of(xs, LEFT, WIDTH - RIGHT)
        self.y = Axis.of(ys, HEIGHT - BOTTOM, TOP, chart.logarithmic)

    def svg(self) -> str:
        chart = self.chart
        parts = [*self._frame(), *self._level()]
        for series in chart.series:
            parts += self._series(series)
        parts += self._names()
        description = escape(f"{chart.title}: {chart.y} over {chart.x}")
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">'
            + "".join(parts)
            + "</svg>"
        )

    def _frame(self) -> list[str]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in self.y.ticks:
            y = self.y.place(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        for tick in self.x.ticks:
            x = self.x.place(tick)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number(tick)}</text>')
        center, middle = (LEFT + right) / 2, f"translate(13 {(TOP + bottom) / 2}) rotate(-90)"
        x_name, y_name = escape(self.chart.x), escape(self.chart.y)
        return [
            *parts,
            f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>',
            f'<text class="label" x="{center}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>',
            f'<text class="label" transform="{middle}" text-anchor="middle">{y_name}</text>',
        ]

    def _level(self) -> list[str]:
        if self.chart.level is None:
            return []
        name, value = self.chart.level
        y = self.y.place(value)
        return [
            f'<path class="level" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>',
            f'<text class="tick" x="{LEFT + 6}" y="{y - 5:.1f}">{escape(name)}</text>',
        ]

    def _series(self, series: Series) -> list[str]:
        points = [(self.x.place(x), self.y.place(y)) for x, y in zip(series.xs, series.ys, strict=True)]
        colour = f"c{series.number % COLOURS}"
        parts = []
        if series.line and len(points) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path class="line {colour}" d="M{path}"/>')
        parts += self._bars(series, points, colour)
        if series.markers:
            labels = series.labels or [f"{series.name}: {number(y)} at {number(x)}" for x, y in _pairs(series)]
            for (x, y), label in zip(points, labels, strict=True):
                parts.append(_marker(x, y, colour, MARKERS[series.number % len(MARKERS)], label))
        return parts

    def _bars(self, series: Series, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
        parts = []
        for (x, _), (value, error) in zip(points, _with(series.ys, series.errors)):
            if error:
                low, high = self.y.place(value - error), self.y.place(value + error)
                parts.append(f'<path class="bar {colour}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        for (_, y), (value, error) in zip(points, _with(series.xs, series.x_errors)):
            if error:
                left, right = self.x.place(value - error), self.x.place(value + error)
                parts.append(f'<path class="bar {colour}" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        return parts

    def _names(self) -> list[str]:
        """Names on the right of lines, apart from each other, with a thin line to where they belong."""
        named = [series for series in self.chart.series if len(series.xs)]
        ends = [(self.x.place(s.xs[s.name_at]), self.y.place(s.ys[s.name_at])) for s in named]
        places = spread_labels([y for _, y in ends], LABEL_HEIGHT, TOP + 4, HEIGHT - BOTTOM)
        left = WIDTH - RIGHT + 14
        parts = []
        for series, (x, y), place in zip(named, ends, places, strict=True):
            colour = f"c{series.number % COLOURS}"
            parts.append(f'<path class="leader {colour}" d="M{x + 5:.1f} {y:.1f}L{left - 3} {place:.1f}"/>')
            parts.append(f'<text class="name {colour}" x="{left}" y="{place + 4:.1f}">{escape(series.name)}</text>')
        return parts


def _marker(x: float, y: float, colour: str, shape: str, label: str) -> str:
    r = 3.4
    title = f"<title>{escape(label)}</title>"
    if shape == "circle":
        return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{title}</circle>'
    outlines = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "diamond": ((0, -r * 1.4), (r * 1.4, 0), (0, r * 1.4), (-r * 1.4, 0)),
        "triangle": ((0, -r * 1.3), (r * 1.2, r), (-r * 1.2, r)),
    }
    path = "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in outlines[shape])
    return f'<path class="dot {colour}" d="M{path}Z">{title}</path>'


def _with(values: Sequence[float], errors: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return list(zip(values, errors or [None] * len(values), strict=True))


def _pairs(series: Series) -> Iterable[tuple[float, float]]:
    return zip(series.xs, series.ys, strict=True)
