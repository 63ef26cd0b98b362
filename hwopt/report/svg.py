"""Small charts as inline SVG text: no library, no script, the same bytes every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 42


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-300))
        return self.start + (at - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if len(powers) > 4 else (1, 2, 5)
            found = [m * 10.0**p for p in powers for m in steps]
        else:
            rough = (self.high - self.low) / 5 or 1.0
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
            first = math.ceil(self.low / step)
            found = [step * (first + i) for i in range(8)]
        return [v for v in found if self.low * 0.9999 <= v <= self.high * 1.0001]


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline in data coordinates."""

    points: Sequence[tuple[float, float]]
    label: str = ""
    style: str = "stroke:#1f6fb4;stroke-width:1.6"


@dataclass(frozen=True, slots=True)
class Dot:
    """A circle in data coordinates with a tooltip."""

    x: float
    y: float
    tip: str
    radius: float = 4.0
    colour: str = "#1f6fb4"


def chart(
    x_label: str, y_label: str, lines: Sequence[Line], dots: Sequence[Dot] = (), *,
    x_log: bool = False, y_log: bool = False, told: Callable[[float], str] | None = None,
) -> str:  # fmt: skip
    """One chart with axes, grid and labels; ranges fit the data.

    `told` writes the values at the axes; None: short, with an SI prefix.
    """
    told = told or number
    xs = [p[0] for line in lines for p in line.points] + [dot.x for dot in dots]
    ys = [p[1] for line in lines for p in line.points] + [dot.y for dot in dots]
    if not xs:
        return "<p>nothing to show</p>"
    x = _scale(xs, LEFT, WIDTH - RIGHT, x_log)
    y = _scale(ys, HEIGHT - BOTTOM, TOP, y_log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">']
    for value in x.ticks():
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" '
                     f'y2="{HEIGHT - BOTTOM}"/>')  # fmt: skip
        parts.append(_text(at, HEIGHT - BOTTOM + 15, told(value), "middle"))
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/>')  # fmt: skip
        parts.append(_text(LEFT - 6, at + 4, told(value), "end"))
    for line in lines:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        tip = f"<title>{escape(line.label)}</title>" if line.label else ""
        parts.append(f'<polyline fill="none" style="{line.style}" points="{path}">{tip}</polyline>')
    parts += [
        f'<circle cx="{x(dot.x):.1f}" cy="{y(dot.y):.1f}" r="{dot.radius:.1f}" '
        f'fill="{dot.colour}" fill-opacity="0.75"><title>{escape(dot.tip)}</title></circle>'
        for dot in dots
    ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(13 {middle:.0f}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_label)}</text></svg>')  # fmt: skip
    return "".join(parts)


def number(value: float) -> str:
    """A short number with an SI prefix: 1.5M, 20m."""
    if value == 0:
        return "0"
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"),
                         (1e-6, "µ"), (1e-9, "n")):  # fmt: skip
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.2g}"


def _scale(values: Sequence[float], start: float, end: float, logarithmic: bool) -> Scale:
    low, high = min(values), max(values)
    if logarithmic:
        return Scale(low / 1.15, high * 1.15, start, end, logarithmic=True)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return Scale(low - margin, high + margin, start, end, logarithmic=False)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
