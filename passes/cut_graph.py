"""The cut graph: every stage that a run of ordered units could become, and what handing its inputs over costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """What a plan may use, and what using it costs.

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
    accelerators : mapping of str to (str or None)
        Accelerators that may be used, and the cluster one core of which drives each.
    contention : float
        How much longer everything takes for each further cluster or accelerator at work, as a share.
    spread_cost : float
        How much longer a kernel takes when its rows are spread over clusters, as a share.
    transfer_us : mapping of str to float
        Time to give an accelerator a frame and to fetch the result, beside the hand-over.
    power_mw : mapping of str to float
        Power that a busy core of each cluster, or a busy accelerator, adds; none where it is not known.
    idle_power_mw : float
        Power of the board when nothing runs.
    """

    cores: Mapping[str, int]
    hand_over_us: float
    hand_over_gb_per_s: float
    max_stages: int = 0
    accelerators: Mapping[str, str | None] = field(default_factory=dict)
    contention: float = 0.0
    spread_cost: float = 0.0
    transfer_us: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    idle_power_mw: float = 0.0

    def configurations(self) -> tuple[CoreConfiguration, ...]:
        """Return every core configuration of one cluster, and every accelerator."""
        cpus = [CoreConfiguration(name, used) for name, cores in self.cores.items() for used in range(1, cores + 1)]
        return (*cpus, *(CoreConfiguration(name, 1) for name in self.accelerators))

    def contention_permille(self, components: int) -> int:
        """Return the factor on all times when so many clusters and accelerators are at work, in thousandths."""
        return 1000 + round(1000 * self.contention) * max(components - 1, 0)


def cut_graph(model: nx.DiGraph[str], order: Sequence[str], resources: Resources) -> nx.DiGraph[int]:
    """Build the graph of all cut positions ``0..n`` with an edge ``(i, j)`` for the stage of the units ``i..j-1``.

    Parameters
    ----------
    model : networkx.DiGraph
        A model graph (see :func:`cospipe.passes.model_graph.model_graph`): units have ``time_us``, edges ``values``.
    order : sequence of str
        The units in a topological order.
    resources : Resources
        Hand-over costs.

    Returns
    -------
    networkx.DiGraph
        Edges carry ``hand_over_ps`` and ``hand_over_bytes`` (distinct values read from outside; 0 for the first
        stage).

    Raises
    ------
    PlanError
        When the hand-over is too long to count in picoseconds.
    """
    moved_bytes = _hand_over_bytes(model, order)
    moved_ps = _hand_over_ps(moved_bytes, resources)
    cuts: nx.DiGraph[int] = nx.DiGraph()
    cuts.add_nodes_from(range(len(order) + 1))
    for i, j in itertools.combinations(range(len(order) + 1), 2):
        cuts.add_edge(i, j, hand_over_ps=int(moved_ps[i, j]), hand_over_bytes=int(moved_bytes[i, j]))
    return cuts


def unit_times_ps(
    model: nx.DiGraph[str], order: Sequence[str], configurations: Sequence[CoreConfiguration], key: str = "time_us"
) -> Integers:
    """Return whole picoseconds [unit, configuration] of one of the units' tables.

    Raises
    ------
    PlanError
        When times are negative, not finite or too large to count in picoseconds.
    """
    tables = [model.nodes[unit].get(key, model.nodes[unit]["time_us"]) for unit in order]
    times_us = np.array([[table[c] for c in configurations] for table in tables], dtype=np.float64)
    if not np.isfinite(times_us).all() or (times_us < 0).any():
        raise PlanError("Predicted times must be finite and not negative; annotate the latencies again.")
    longest_us = float(times_us.sum(axis=0).max())
    if longest_us * PICOSECONDS_PER_US * len(order) * 1000 >= UNREACHABLE:
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
    if not np.isfinite(costs_ps).all() or costs_ps.max() * len(moved_bytes) * 1000 >= UNREACHABLE:
        raise PlanError("The hand-over between stages takes too long to compare; check the SoC's hand-over costs.")
    rounded_ps: Integers = np.rint(costs_ps).astype(np.int64)
    return rounded_ps
