"""The roofline picture: how close each kernel of a network comes to what one core can do, as an SVG.

Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures"
(CACM 52, 2009): speed over arithmetic intensity on logarithmic axes, under the lines of bandwidth and peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import atan2, degrees, floor, log2, sqrt
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1200, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 890, 60, 560
_LARGEST_RADIUS, _SMALLEST_RADIUS = 24.0, 3.0
_SMALLEST_FLOP_PER_BYTE, _SMALLEST_GFLOPS = 0.25, 4.0
"""Where the axes start at the latest, so that the slopes of the roofs are seen."""
_BACKGROUND, _TEXT, _DIM, _GRID = "#292929", "#c5c8c6", "#9a9c9b", "#404141"
_HALO = f' paint-order="stroke" stroke="{_BACKGROUND}" stroke-width="4"'
_COLOURS = ("#68a0b3", "#d0b344", "#98a84b", "#cc7ab0", "#d2725a", "#8f8fd8", "#e8e8e8")


@dataclass(frozen=True)
class Dot:
    """One kernel.

    Parameters
    ----------
    name, kind : str
        What it is called, and what sort of kernel it is.
    flop_per_byte : float
        Operations divided by the bytes of all tensors it reads and writes.
    gflops : float
        Operations in 1e9 a second.
    time_us : float
        Its time.
    """

    name: str
    kind: str
    flop_per_byte: float
    gflops: float
    time_us: float


@dataclass(frozen=True)
class Roofs:
    """What one core can do: its peak, and the rate of each level of memory by name."""

    peak_gflops: float
    gb_per_s: Mapping[str, float]


def read_measurement(measured: Mapping[str, Any], network: str) -> tuple[list[Dot], Roofs]:
    """Return a network's kernels on one core, and the roofs, from the JSON of ``benchmarks/kernel_efficiency.py``.

    Kernels without multiply-accumulates have no arithmetic intensity and are left out.
    """
    rows = [row for row in measured["rows"] if row["network"] == network and row["threads"] == 1]
    summary = measured["summary"]
    rates = {level: summary.get(f"threads_1_{level.lower()}_gb_per_s") for level in ("L2", "L3", "memory")}
    known = {level: float(rate) for level, rate in rates.items() if rate}
    return [_dot(row) for row in rows if row["macs"]], Roofs(float(summary["threads_1_peak_gflops"]), known)


def _dot(row: Mapping[str, Any]) -> Dot:
    moved = row["input_bytes"] + row["weight_bytes"] + row["output_bytes"]
    return Dot(row["kernel"], row["kind"], 2 * row["macs"] / moved, row["gflops"], row["time_us"])


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis between two powers of two: where a value lies on it, in pixels."""

    lowest: float
    highest: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """Return the axis from the power of two below all values to the one above."""
        return cls(2.0 ** floor(log2(min(values))), 2.0 ** (floor(log2(max(values))) + 1), start, end)

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = log2(value / self.lowest) / log2(self.highest / self.lowest)
        return round(self.start + share * (self.end - self.start), 1)

    def marks(self) -> Iterator[float]:
        """Yield the powers of two on the axis."""
        value = self.lowest
        while value <= self.highest:
            yield value
            value *= 2


def draw(dots: Sequence[Dot], roofs: Roofs, title: str) -> str:
    """Return the picture as SVG text.

    Parameters
    ----------
    dots : sequence of Dot
        At least one kernel.
    roofs : Roofs
        What they are compared with.
    title : str
        Stands above.
    """
    across = Axis.around([_SMALLEST_FLOP_PER_BYTE, *(dot.flop_per_byte for dot in dots)], _LEFT, _RIGHT)
    up = Axis.around([_SMALLEST_GFLOPS, *(dot.gflops for dot in dots), roofs.peak_gflops], _BOTTOM, _TOP)
    kinds = _kinds_by_time(dots)
    colours = {kind: _COLOURS[number % len(_COLOURS)] for number, kind in enumerate(kinds)}
    longest_us = max(dot.time_us for dot in dots)
    parts = [
        *_frame(title),
        *_grid(across, up),
        *(_circle(dot, longest_us, colours, across, up) for dot in sorted(dots, key=lambda dot: -dot.time_us)),
        *_peak_line(roofs, across, up),
        *(part for level in roofs.gb_per_s for part in _bandwidth_line(level, roofs, across, up)),
        *_legend(kinds, colours, longest_us),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _kinds_by_time(dots: Sequence[Dot]) -> dict[str, tuple[int, float]]:
    """Return how many kernels each kind has and how long they take, in us; most time first."""
    kinds: dict[str, tuple[int, float]] = {}
    for dot in dots:
        count, time_us = kinds.get(dot.kind, (0, 0.0))
        kinds[dot.kind] = count + 1, time_us + dot.time_us
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def _frame(title: str) -> list[str]:
    return [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg" font-family="arial, sans-serif">',
        f'<rect fill="{_BACKGROUND}" stroke="rgba(255,255,255,0.35)" x="1" y="1" width="{WIDTH - 2}"'
        f' height="{HEIGHT - 2}" rx="8"/>',
        _text(WIDTH / 2, 34, title, size=18, anchor="middle", extra=' font-weight="bold"'),
    ]


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = []
    for value in across.marks():
        parts.append(_line(across.at(value), _TOP, across.at(value), _BOTTOM, _GRID))
        parts.append(_text(across.at(value), _BOTTOM + 22, f"{value:g}", anchor="middle"))
    for value in up.marks():
        parts.append(_line(_LEFT, up.at(value), _RIGHT, up.at(value), _GRID))
        parts.append(_text(_LEFT - 10, up.at(value) + 5, f"{value:g}", anchor="end"))
    middle = (_TOP + _BOTTOM) / 2
    label = "arithmetic intensity, FLOP / byte of the tensors read and written"
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 52, label, anchor="middle"))
    parts.append(_text(32, middle, "speed, GFLOP/s", anchor="middle", extra=f' transform="rotate(-90 32 {middle:g})"'))
    return parts


def _peak_line(roofs: Roofs, across: Axis, up: Axis) -> list[str]:
    ridge = min(roofs.peak_gflops / rate for rate in roofs.gb_per_s.values())
    x, y = across.at(max(ridge, across.lowest)), up.at(roofs.peak_gflops)
    label = f"peak of the multiply-adds: {roofs.peak_gflops:g} GFLOP/s"
    return [_line(x, y, _RIGHT, y, _TEXT, width=2), _text(x, y - 9, label, size=13, extra=_HALO)]


def _bandwidth_line(level: str, roofs: Roofs, across: Axis, up: Axis) -> list[str]:
    """Draw one bandwidth from the left side or the bottom of the picture up to the peak.

    Its name stands above the fastest, below all others: these may lie close together.
    """
    rate = roofs.gb_per_s[level]
    first, ridge = max(across.lowest, up.lowest / rate), roofs.peak_gflops / rate
    if first >= ridge:
        return []
    x, y, end_x, end_y = across.at(first), up.at(first * rate), across.at(ridge), up.at(ridge * rate)
    angle = round(degrees(atan2(end_y - y, end_x - x)), 1)
    turned = f' transform="rotate({angle:g} {x:g} {y:g})"{_HALO}'
    below = -7 if rate == max(roofs.gb_per_s.values()) else 17
    label = _text(x + 12, y + below, f"{level}: {rate:g} GB/s", size=13, extra=turned)
    return [_line(x, y, end_x, end_y, _TEXT, width=2), label]


def _circle(dot: Dot, longest_us: float, colours: Mapping[str, str], across: Axis, up: Axis) -> str:
    x, y, size = across.at(dot.flop_per_byte), up.at(dot.gflops), radius(dot.time_us, longest_us)
    label = escape(f"{dot.name}: {dot.kind}, {dot.time_us:.0f} us, {dot.gflops:.0f} GFLOP/s")
    look = f'fill="{colours[dot.kind]}" fill-opacity="0.7" stroke="{_BACKGROUND}"'
    return f'<circle cx="{x:g}" cy="{y:g}" r="{size:g}" {look}><title>{label}</title></circle>'


def radius(time_us: float, longest_us: float) -> float:
    """Return the radius of a dot whose area stands for its time."""
    return round(max(_SMALLEST_RADIUS, _LARGEST_RADIUS * sqrt(time_us / longest_us)), 1)


def _legend(kinds: Mapping[str, tuple[int, float]], colours: Mapping[str, str], longest_us: float) -> list[str]:
    x, y, parts = _RIGHT + 36, _TOP + 16, []
    for kind, (count, time_us) in kinds.items():
        parts.append(f'<circle cx="{x}" cy="{y}" r="8" fill="{colours[kind]}"/>')
        parts.append(_text(x + 18, y + 5, kind))
        parts.append(
            _text(x + 18, y + 23, f"{count} kernel{'s' * (count > 1)}, {time_us / 1e3:.2f} ms", size=12, fill=_DIM)
        )
        y += 50
    y += 20
    for share in (1.0, 0.3, 0.1):
        size = radius(share * longest_us, longest_us)
        parts.append(f'<circle cx="{x}" cy="{y}" r="{size:g}" fill="none" stroke="{_DIM}"/>')
        parts.append(_text(x + 36, y + 5, f"{share * longest_us / 1e3:.2f} ms", size=12, fill=_DIM))
        y += 46 if share == 1.0 else 32
    if "Winograd convolution" in kinds:
        for number, line in enumerate(("Winograd: operations of the", "direct convolution are counted")):
            parts.append(_text(x - 8, _BOTTOM - 18 + 18 * number, line, size=12, fill=_DIM))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, size: int = 14, anchor: str = "start", fill: str = _TEXT, extra: str = ""
) -> str:
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{extra}'
    return f"<text {place}>{escape(text)}</text>"
