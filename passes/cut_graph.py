"""The cut graph: every stage that a run of ordered units could become, and what it costs on each core configuration."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import networkx as nx
import numpy as np
import numpy.typing as npt

from cospipe.ir.errors import PlanError
from cospipe.ir.plan import CoreConfiguration

Integers = npt.NDArray[np.int64]

PICOSECONDS_PER_US: Final = 1_000_000
"""The search counts in whole picoseconds, so that equal times compare as equal."""
UNREACHABLE: Final = 1 << 61
"""More picoseconds than any pipeline takes; twice of it still fits 64 bits."""


@dataclass(frozen=True)
class Resources:
    """What a pipeline may use, and what passing tensors between its stages costs.

    Parameters
    ----------
    cores : mapping of str to int
        Cores that may be used of each cluster.
    hand_over_us : float
        Fixed cost of each stage but the first, microseconds.
    hand_over_gb_per_s : float
        Rate at which a stage reads tensors of earlier stages, 1e9 bytes a second.
    max_stages : int
        Most stages allowed; 0 for no limit but the cores.
    """

    cores: Mapping[str, int]
    hand_over_us: float
    hand_over_gb_per_s: float
    max_stages: int = 0

    def configurations(self) -> tuple[CoreConfiguration, ...]:
        """Return every core configuration a stage may have."""
        return tuple(
            CoreConfiguration(name, used) for name, cores in self.cores.items() for used in range(1, cores + 1)
        )


def cut_graph(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> nx.DiGraph[int]:
    """Build the graph of all cut positions ``0..n`` with an edge ``(i, j)`` for the stage of the units ``i..j-1``.

    Parameters
    ----------
    model : networkx.DiGraph
        A model graph (see :func:`cospipe.passes.model_graph.model_graph`): units have ``time_us``, edges ``values``.
    order : sequence of str
        The units in a topological order.
    resources : Resources
        Cores and hand-over costs.

    Returns
    -------
    networkx.DiGraph
        Edges carry ``times_ps`` (whole picoseconds on each of ``resources.configurations()``, hand-over included),
        ``hand_over_ps`` and ``hand_over_bytes`` (distinct values read from outside; 0 for the first stage).

    Raises
    ------
    PlanError
        When times are negative, not finite or too large to count in picoseconds.
    """
    units_ps = _unit_times_ps(model, order, resources.configurations())
    until_ps = np.vstack([np.zeros_like(units_ps[:1]), np.cumsum(units_ps, axis=0)])
    moved_bytes = _hand_over_bytes(model, order)
    moved_ps = _hand_over_ps(moved_bytes, resources)
    times_ps = until_ps[np.newaxis] - until_ps[:, np.newaxis] + moved_ps[:, :, np.newaxis]
    cuts: nx.DiGraph[int] = nx.DiGraph()
    cuts.add_nodes_from(range(len(order) + 1))
    for i, j in itertools.combinations(range(len(order) + 1), 2):
        cuts.add_edge(
            i, j, times_ps=times_ps[i, j], hand_over_ps=int(moved_ps[i, j]), hand_over_bytes=int(moved_bytes[i, j])
        )
    return cuts


def _unit_times_ps(
    model: nx.DiGraph[str], order: Sequence[str], configurations: Sequence[CoreConfiguration]
) -> Integers:
    times_us = np.array([[model.nodes[unit]["time_us"][c] for c in configurations] for unit in order], dtype=np.float64)
    if not np.isfinite(times_us).all() or (times_us < 0).any():
        raise PlanError("Predicted times must be finite and not negative; annotate the latencies again.")
    longest_us = float(times_us.sum(axis=0).max())
    if longest_us * PICOSECONDS_PER_US * len(order) >= UNREACHABLE:
        raise PlanError(f"The predicted times add up to {longest_us / 1e6:.3g} s, too long to compare exactly.")
    return np.rint(times_us * PICOSECONDS_PER_US).astype(np.int64)


def _hand_over_bytes(model: nx.DiGraph[str], order: Sequence[str]) -> Integers:
    """Return, for each stage ``(i, j)``, the bytes of the distinct values that it reads from outside."""
    position = {unit: index for index, unit in enumerate(order)}
    readers: dict[tuple[str, str, int], list[int]] = {}
    for producer, reader, edge in model.edges(data=True):
        for name, size in edge["values"].items():
            readers.setdefault((producer, name, size), []).append(position[reader])
    moved = np.zeros((len(order) + 1, len(order) + 1), dtype=np.int64)
    for (producer, _, size), positions in readers.items():
        # Graph inputs have no position: they are there before the first unit, and the first stage has them for free.
        first_outside = max(position.get(producer, -1) + 1, 1)
        for start in range(first_outside, max(positions) + 1):
            first_reader = min(p for p in positions if p >= start)
            moved[start, first_reader + 1 :] += size
    return moved


def _hand_over_ps(moved_bytes: Integers, resources: Resources) -> Integers:
    per_byte_ps = PICOSECONDS_PER_US / (resources.hand_over_gb_per_s * 1e3)
    costs_ps = np.float64(resources.hand_over_us * PICOSECONDS_PER_US) + moved_bytes * per_byte_ps
    costs_ps[0] = 0.0
    if not np.isfinite(costs_ps).all() or costs_ps.max() * len(moved_bytes) >= UNREACHABLE:
        raise PlanError("The hand-over between stages takes too long to compare; check the SoC's hand-over costs.")
    rounded_ps: Integers = np.rint(costs_ps).astype(np.int64)
    return rounded_ps
