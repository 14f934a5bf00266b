"""A period that no plan on CPU cores can be below, whatever the cuts: every core busy with what suits it best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import networkx as nx
import numpy as np
import numpy.typing as npt

from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import Resources

Floats = npt.NDArray[np.float64]
_STEPS = 40


def period_bound_us(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> float:
    """Return a lower bound on the period of every plan without accelerators, microseconds.

    In one period the cores of cluster c have ``period * cores[c]`` of core time. A unit takes at least
    ``work[unit, c] = min over n of n * time(unit, c:n)`` of it wherever it runs. Let units be divided among clusters at
    will, free of hand-over, contention and whole numbers of cores: the least period is that of a linear program, whose
    dual is solved here: the maximum, over weights of the clusters that add up to 1, of
    ``sum over units of min over c of weight[c] / cores[c] * work[unit, c]``. Any weights give a valid bound.

    Parameters
    ----------
    model : networkx.DiGraph
        Units have ``time_us``.
    order : sequence of str
        The units.
    resources : Resources
        Cores that may be used.
    """
    clusters = list(resources.cores)
    work_us = np.array([[_work_us(model.nodes[unit]["time_us"], c, resources) for c in clusters] for unit in order])
    per_core_us = work_us / np.array([resources.cores[cluster] for cluster in clusters])
    return _maximum(lambda weights: float((per_core_us * weights).min(axis=1).sum()), len(clusters), 1.0)


def _work_us(table: dict[CoreConfiguration, float], cluster: str, resources: Resources) -> float:
    counts = range(1, resources.cores[cluster] + 1)
    return min(count * table[CoreConfiguration(cluster, count)] for count in counts)


def _maximum(bound: Callable[[Floats], float], clusters: int, left: float, *before: float) -> float:
    """Return the maximum of a concave function of weights that add up to what is left, by ternary search in each."""
    if clusters == 1:
        return bound(np.array([*before, left]))
    low, high = 0.0, left
    for _ in range(_STEPS):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        at_first = _maximum(bound, clusters - 1, left - first, *before, first)
        at_second = _maximum(bound, clusters - 1, left - second, *before, second)
        low, high = (first, high) if at_first < at_second else (low, second)
    middle = (low + high) / 2
    return _maximum(bound, clusters - 1, left - middle, *before, middle)
