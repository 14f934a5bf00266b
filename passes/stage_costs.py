"""What every stage costs with every option: its period, its part of the latency, its energy, its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt

from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.cut_graph import PICOSECONDS_PER_US, Integers, Resources, cut_graph, unit_times_ps
from cospipe.passes.stage_options import Placement, StageOption

Booleans = npt.NDArray[np.bool_]

_FEMTOJOULE_PER_PICOJOULE = 1000  # a picosecond times a milliwatt is a femtojoule
_MOST_KEPT = 4_000_000
"""Costs of a search with more stages times options than this are computed again each time; they would fill memory."""
_IMPOSSIBLY_FAST = 1e30
"""Stands for one divided by no time at all."""


@dataclass(frozen=True)
class StopCosts:
    """Costs [start, option] of all stages that end at one position, whole numbers."""

    period_ps: Integers
    latency_ps: Integers
    energy_pj: Integers
    memory_bytes: Integers


class StageCosts:
    """Costs of every stage of an ordered model graph with every option.

    * A replica takes the sum of its units plus the hand-over, on an accelerator also the transfer there and back; an
      option's latency is that of its slowest replica.
    * Replicas take frames as they are free, so rates add up: the period is 1 / sum(1 / time).
    * Energy: every replica is busy for one period of the stage a frame.
    * Memory: weights of the stage and the largest tensors of one unit, once a replica.
    * Beside other stages and replicas a unit takes its ``crowded_us``, for the rest of its cluster may be busy; a
      single replica of the whole network has the chip for itself and takes its ``time_us``.
    * A kernel spread over clusters in equal parts takes as long as the slowest part, spread by speed as the rates
      added up allow; both longer by the spread cost.

    Parameters
    ----------
    model : networkx.DiGraph
        Units have ``time_us`` and, where it differs, ``crowded_us``; where they have ``weight_bytes`` and
        ``tensor_bytes``, memory is counted.
    order : sequence of str
        The units in a topological order.
    resources : Resources
        What there is.
    options : sequence of StageOption
        What stages may occupy.
    """

    def __init__(
        self, model: nx.DiGraph[str], order: Sequence[str], resources: Resources, options: Sequence[StageOption]
    ) -> None:
        self.cuts = cut_graph(model, order, resources)
        self.options = tuple(options)
        self.placements = tuple(dict.fromkeys(placement for option in options for placement, _ in option.replicas))
        self.alone_ps = self._until_ps(model, order, resources, "time_us")
        self.until_ps = self._until_ps(model, order, resources, "crowded_us")
        self._transfer_ps = np.array([_transfer_ps(placement, resources) for placement in self.placements])
        self._kinds, self._counts = self._replica_arrays()
        self.replicas = self._counts.sum(axis=1)
        self.power_mw = np.array([self._power_mw(option, resources) for option in self.options])
        self._weights = np.array([model.nodes[unit].get("weight_bytes", 0) for unit in order], dtype=np.int64)
        self._tensors = np.array([model.nodes[unit].get("tensor_bytes", 0) for unit in order], dtype=np.int64)
        self._cache: dict[int, StopCosts] = {}

    @property
    def positions(self) -> int:
        """Cut positions, both ends included."""
        return len(self.until_ps)

    def at(self, stop: int) -> StopCosts:
        """Return the costs of all stages that end at a position; starts are ``0..stop-1``."""
        if stop in self._cache:
            return self._cache[stop]
        found = self._costs(stop)
        if self.positions**2 * len(self.options) <= 2 * _MOST_KEPT:
            self._cache[stop] = found
        return found

    def replica_ps(self, start: int, stop: int, option: int) -> Integers:
        """Return the time of one stage with an option on each placement, transfers to accelerators included."""
        until_ps = self.alone_ps if self._is_alone(start, stop)[option] else self.until_ps
        times_ps: Integers = until_ps[stop] - until_ps[start] + self._transfer_ps
        return times_ps

    def _is_alone(self, start: int, stop: int) -> Booleans:
        """Tell for which options a stage is the only one, with a single replica."""
        is_whole = start == 0 and stop == self.positions - 1
        alone: Booleans = (self.replicas == 1) & is_whole
        return alone

    def _costs(self, stop: int) -> StopCosts:
        hand_over_ps = np.array([self.cuts.edges[start, stop]["hand_over_ps"] for start in range(stop)], dtype=np.int64)
        times_ps = self.until_ps[stop] - self.until_ps[:stop] + hand_over_ps[:, np.newaxis] + self._transfer_ps
        latency_ps = times_ps[:, self._kinds[:, 0]]
        rate = np.zeros(latency_ps.shape)
        for kind, count in zip(self._kinds.T, self._counts.T, strict=True):
            chosen = times_ps[:, kind]
            latency_ps = np.maximum(latency_ps, chosen)
            rate += count * np.divide(1.0, chosen, out=np.full(chosen.shape, _IMPOSSIBLY_FAST), where=chosen > 0)
        first = self._kinds[:, 0]
        latency_ps[0] = np.where(
            self._is_alone(0, stop), self.alone_ps[stop, first] + self._transfer_ps[first], latency_ps[0]
        )
        period_ps = np.where(self.replicas == 1, latency_ps, np.rint(1 / rate).astype(np.int64))
        energy_pj = np.rint(period_ps * self.power_mw / _FEMTOJOULE_PER_PICOJOULE).astype(np.int64)
        weights = np.cumsum(self._weights[:stop][::-1])[::-1]
        tensors = np.maximum.accumulate(self._tensors[:stop][::-1])[::-1]
        memory_bytes = (weights + tensors)[:, np.newaxis] * self.replicas
        return StopCosts(period_ps, latency_ps, energy_pj, memory_bytes)

    def _until_ps(self, model: nx.DiGraph[str], order: Sequence[str], resources: Resources, key: str) -> Integers:
        configurations = resources.configurations()
        alone = unit_times_ps(model, order, configurations, key)
        column = {configuration: index for index, configuration in enumerate(configurations)}
        units = np.stack([_placed_ps(p, alone, column, resources.spread_cost) for p in self.placements], axis=1)
        return np.vstack([np.zeros_like(units[:1]), np.cumsum(units, axis=0)])

    def _replica_arrays(self) -> tuple[Integers, Integers]:
        """Return the placements of each option and how many replicas each has; padded by the first one, none of it."""
        width = max(len(option.replicas) for option in self.options)
        number = {placement: index for index, placement in enumerate(self.placements)}
        kinds = np.zeros((len(self.options), width), dtype=np.int64)
        counts = np.zeros((len(self.options), width), dtype=np.int64)
        for row, option in enumerate(self.options):
            kinds[row] = number[option.replicas[0][0]]
            for place, (placement, count) in enumerate(option.replicas):
                kinds[row, place], counts[row, place] = number[placement], count
        return kinds, counts

    def _power_mw(self, option: StageOption, resources: Resources) -> float:
        hosts = {name: host for name, host in resources.accelerators.items() if host}
        demand = option.demand(hosts)
        return sum(resources.power_mw.get(name, 0.0) * wanted for name, wanted in demand.items())


def _transfer_ps(placement: Placement, resources: Resources) -> int:
    return round(PICOSECONDS_PER_US * sum(resources.transfer_us.get(cores.cluster, 0.0) for cores in placement.cores))


def _placed_ps(
    placement: Placement, alone: Integers, column: dict[CoreConfiguration, int], spread_cost: float
) -> Integers:
    """Return the time of each unit on a placement."""
    parts = alone[:, [column[cores] for cores in placement.cores]].astype(np.float64)
    if not placement.is_spread:
        only: Integers = alone[:, column[placement.cores[0]]]
        return only
    counts = np.array([cores.cores for cores in placement.cores])
    if placement.sharing == "equal":
        together = (parts * counts / counts.sum()).max(axis=1)
    else:
        rates = np.divide(1.0, parts, out=np.full(parts.shape, _IMPOSSIBLY_FAST), where=parts > 0).sum(axis=1)
        together = 1 / rates
    spread: Integers = np.rint(together * (1 + spread_cost)).astype(np.int64)
    return spread
