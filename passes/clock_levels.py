"""Clocks: which combinations of the clusters' levels are weighed, and what units take at them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import networkx as nx
import numpy as np

from cospipe.ir.soc import Soc

MOST_COMBINATIONS: Final = 64
"""With more, every cluster keeps as many levels as fit, evenly spaced, its lowest and its highest among them."""


def clock_combinations(soc: Soc, clusters: Sequence[str], most: int = MOST_COMBINATIONS) -> list[dict[str, float]]:
    """Return at most so many combinations of clock levels, MHz by cluster, the highest first, for some clusters."""
    used = [cluster for cluster in soc.clusters if cluster.name in clusters]
    kept = max(len(cluster.clock_mhz) for cluster in used)
    while kept > 2 and np.prod([min(kept, len(cluster.clock_mhz)) for cluster in used]) > most:
        kept -= 1
    levels = [_thinned(cluster.clock_mhz, kept)[::-1] for cluster in used]
    names = [cluster.name for cluster in used]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*levels)]


def _thinned(levels: Sequence[float], most: int) -> list[float]:
    if len(levels) <= most:
        return list(levels)
    return [levels[round(place)] for place in np.linspace(0, len(levels) - 1, most)]


def at_clocks(model: nx.DiGraph[str], soc: Soc, clock_mhz: Mapping[str, float]) -> nx.DiGraph[str]:
    """Return a model graph with the times of its units at other clocks; edges are shared with the original.

    Parameters
    ----------
    model : networkx.DiGraph
        Units have ``time_us`` and ``crowded_us`` at the highest clocks and ``clock_bound_us``, the part that shrinks
        with the clock.
    soc : Soc
        The chip.
    clock_mhz : mapping of str to float
        Clock of each cluster; the highest where it is not given.
    """
    slower = {c.name: c.max_clock_mhz / clock_mhz.get(c.name, c.max_clock_mhz) - 1 for c in soc.clusters}
    scaled = model.copy()
    for _, unit in scaled.nodes(data=True):
        if "time_us" in unit:
            for key in ("time_us", "crowded_us"):
                unit[key] = {
                    c: time_us + slower.get(c.cluster, 0.0) * unit["clock_bound_us"].get(c, 0.0)
                    for c, time_us in unit[key].items()
                }
    return scaled
