"""Colours that can be told apart on white and on black, and texts that Plotly shows as they are."""

from __future__ import annotations

import html
from collections.abc import Iterable

STAGES = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#0ea5a4", "#d4a017", "#ec4899", "#8b5e3c", "#64748b")
CLUSTERS = (
    ("#1d4ed8", "#3b82f6", "#60a5fa", "#93c5fd"),
    ("#c2410c", "#f97316", "#fb923c", "#fdba74"),
    ("#047857", "#10b981", "#34d399", "#6ee7b7"),
    ("#7e22ce", "#a855f7", "#c084fc", "#d8b4fe"),
)
"""For each cluster: all its cores first, fewer after that."""
NEUTRAL = "#8a94a6"
STRONG = "#f43f5e"


def stage_colour(position: int) -> str:
    """Return the colour of a stage; they repeat when there are many."""
    return STAGES[position % len(STAGES)]


def cluster_colours(configurations: Iterable[str]) -> dict[str, str]:
    """Return a colour for each core configuration (``big:4``): a hue a cluster, paler for fewer cores."""
    clusters: dict[str, list[str]] = {}
    for configuration in configurations:
        clusters.setdefault(configuration.rpartition(":")[0], []).append(configuration)
    colours: dict[str, str] = {}
    for shades, members in zip(_endless(CLUSTERS), clusters.values(), strict=False):
        most_first = sorted(members, key=lambda member: -int(member.rpartition(":")[2]))
        colours |= {member: shades[min(i, len(shades) - 1)] for i, member in enumerate(most_first)}
    return colours


def _endless(shades: tuple[tuple[str, ...], ...]) -> Iterable[tuple[str, ...]]:
    while True:
        yield from shades


def plain(text: object) -> str:
    """Return a text that Plotly shows as it is; it reads some HTML."""
    return html.escape(str(text), quote=False)
