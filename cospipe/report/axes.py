"""Axes of charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_FAR = 12
"""Axes are logarithmic when the largest value is this many times the smallest."""


def logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """Return the settings of a logarithmic axis with ticks at 1, 2 and 5 times every power of ten.

    Parameters
    ----------
    values : sequence of float
        What is drawn, above zero.
    """
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,.6g}" for tick in ticks]}


@dataclass(frozen=True)
class Scale:
    """An axis with room around what is drawn: linear from zero, or logarithmic where values are far apart.

    Parameters
    ----------
    values : tuple of float
        What is drawn, at least one; not negative.
    """

    values: tuple[float, ...]

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are far apart."""
        return min(self.values) > 0 and max(self.values) > _FAR * min(self.values)

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the axis, logarithms to base 10 of a logarithmic one."""
        if not self.is_logarithmic:
            return 0.0, 1.12 * max(self.values) or 1.0
        low, high = math.log10(min(self.values)), math.log10(max(self.values))
        return low - 0.1 * (high - low), high + 0.1 * (high - low)

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        low, high = self.ends
        return ((math.log10(value) if self.is_logarithmic else value) - low) / (high - low)

    def axis(self, title: str) -> dict[str, Any]:
        """Return the settings of the axis."""
        kind = logarithmic(self.values) if self.is_logarithmic else {"type": "linear"}
        return {"title": {"text": title}, "range": list(self.ends), **kind}
