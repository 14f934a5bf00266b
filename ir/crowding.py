"""How much longer a layer takes on some cores of a cluster when the other cores of it are busy with other work."""

from __future__ import annotations

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Cluster, Soc


class Crowding:
    """Factors on times measured or predicted with the rest of a cluster idle.

    The cores of a cluster share what the whole cluster reads from DRAM, which is less than its cores read alone. A
    layer that only computes is not slowed down. The factor is the ratio of two predictions of the analytic model, so
    that it can be put on times of any source.

    Parameters
    ----------
    soc : Soc
        The chip.
    """

    def __init__(self, soc: Soc) -> None:
        clusters = tuple(_crowded(cluster) for cluster in soc.clusters)
        self._alone = AnalyticLatencyModel(soc)
        self._crowded = AnalyticLatencyModel(soc.model_copy(update={"clusters": clusters}))

    def factor(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> float:
        """Return the factor, at least 1, for one layer on some cores."""
        alone_us = self._alone.predict_us(layer, configuration)
        return max(self._crowded.predict_us(layer, configuration) / alone_us, 1.0) if alone_us else 1.0


def _crowded(cluster: Cluster) -> Cluster:
    whole = cluster.memory_bandwidth_gb_per_s[-1]
    shares = tuple(
        min(alone, whole * (index + 1) / cluster.cores) for index, alone in enumerate(cluster.memory_bandwidth_gb_per_s)
    )
    return cluster.model_copy(update={"memory_bandwidth_gb_per_s": shares})
