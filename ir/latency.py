"""Predicting the time of a layer on some cores of a chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Cluster, Soc


class LatencyModel(Protocol):
    """What predicts the time of layers; every prediction belongs to one kernel library."""

    @property
    def kernel_library(self) -> str:
        """Name of the kernels the model was made for."""

    def predict_us(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> float:
        """Return the microseconds of one layer on some cores."""


@dataclass(frozen=True)
class KernelEfficiency:
    """How well the kernels of one kind of layer use a core.

    Parameters
    ----------
    peak_fraction : float
        Share of the core's FP32 peak the kernel reaches when its data is in cache; above 1 where it does fewer
        operations than are counted.
    operations_per_element : float
        Floating-point operations for each output element of a layer without a matrix product.
    """

    peak_fraction: float
    operations_per_element: float = 0.0


CPU_KERNELS = "cospipe CPU kernels"

CPU_EFFICIENCY: Mapping[LayerKind, KernelEfficiency] = {
    LayerKind.CONV: KernelEfficiency(1.7),
    LayerKind.POINTWISE_CONV: KernelEfficiency(0.96),
    LayerKind.DEPTHWISE_CONV: KernelEfficiency(0.84),
    LayerKind.GROUPED_CONV: KernelEfficiency(0.4),
    LayerKind.TRANSPOSED_CONV: KernelEfficiency(0.7),
    LayerKind.LINEAR: KernelEfficiency(0.95),
    LayerKind.MATMUL: KernelEfficiency(0.81),
    LayerKind.ATTENTION: KernelEfficiency(0.8),
    LayerKind.POOLING: KernelEfficiency(0.27, operations_per_element=9),
    LayerKind.NORMALISATION: KernelEfficiency(0.3, operations_per_element=8),
    LayerKind.ELEMENTWISE: KernelEfficiency(0.23, operations_per_element=4),
    LayerKind.SOFTMAX: KernelEfficiency(0.53, operations_per_element=20),
    LayerKind.CONCAT: KernelEfficiency(0.23),
    LayerKind.RESHAPE: KernelEfficiency(0.23),
    LayerKind.OTHER: KernelEfficiency(0.1, operations_per_element=4),
}
"""Fitted by ``benchmarks/kernel_efficiency.py --fit`` to the kernels of six networks on one core of an AVX-512 x86 host
(Zen 4), relative to what that core reaches in registers. Dense convolutions exceed the peak on average because most
are 3x3 and Winograd's method does fewer products than are counted; direct ones reach 0.8, Winograd's 2.4. Grouped and
transposed convolutions, attention as one layer, and what only copies are guesses; no ARM board was measured."""


@dataclass(frozen=True)
class AnalyticLatencyModel:
    """A roofline for each core type; it needs no measurement.

    A kernel takes the longer of computing and moving bytes, plus its start:

    * computing: 2 operations a MAC (or ``operations_per_element`` an output element), at the peak of the cores times
      the cluster's kernel and parallel efficiency times the kernel's share of the peak;
    * moving: weights and output once, inputs only when they are too large to be still in the last-level cache, where
      the layer before left them, at the DRAM bandwidth that many cores reach;
    * start: ``launch_cycles`` of the core's clock, and ``fork_cycles`` more when several cores share the kernel.

    A fused layer costs only the bytes it reads in addition; a view costs nothing.

    Parameters
    ----------
    soc : Soc
        The chip; its highest clocks are assumed.
    kernel_library : str
        Name of the kernels the efficiencies belong to.
    efficiency : mapping of LayerKind to KernelEfficiency
        How well these kernels use a core.
    launch_cycles, fork_cycles : float
        Clock cycles to start a kernel, and to hand its parts to other cores and wait for them.
    """

    soc: Soc
    kernel_library: str = CPU_KERNELS
    efficiency: Mapping[LayerKind, KernelEfficiency] = field(default_factory=lambda: CPU_EFFICIENCY)
    launch_cycles: float = 5_000
    fork_cycles: float = 10_000

    def predict_us(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> float:
        """Return the microseconds of one layer on some cores of a cluster.

        Raises
        ------
        UsageError
            When the chip does not have these cores.
        """
        self.soc.check_cores([configuration])
        cluster, cores = self.soc.cluster(configuration.cluster), configuration.cores
        if layer.fused_into is not None:
            return _moving_us(layer.input_bytes + layer.weight_bytes, cluster, cores)
        if not layer.total_bytes:
            return 0.0
        moving_us = _moving_us(_dram_bytes(layer, _cache_bytes(cluster, cores)), cluster, cores)
        return max(self._computing_us(layer, cluster, cores), moving_us) + self._start_us(cluster, cores)

    def _computing_us(self, layer: LayerDescriptor, cluster: Cluster, cores: int) -> float:
        kernel = self.efficiency[layer.kind]
        operations = 2 * layer.macs or kernel.operations_per_element * layer.gemm_n
        peak_gflops = (
            cluster.peak_gflops_per_core * cluster.kernel_efficiency * cores * cluster.parallel_efficiency[cores - 1]
        )
        return operations / (peak_gflops * kernel.peak_fraction * 1e3)

    def _start_us(self, cluster: Cluster, cores: int) -> float:
        cycles = self.launch_cycles + (self.fork_cycles if cores > 1 else 0)
        return cycles / cluster.max_clock_mhz


def _moving_us(moved_bytes: float, cluster: Cluster, cores: int) -> float:
    return moved_bytes / (cluster.memory_bandwidth_gb_per_s[cores - 1] * 1e3)


def _dram_bytes(layer: LayerDescriptor, cache_bytes: int) -> int:
    is_input_cached = layer.input_bytes + layer.output_bytes <= cache_bytes
    return layer.weight_bytes + layer.output_bytes + (0 if is_input_cached else layer.input_bytes)


def _cache_bytes(cluster: Cluster, cores: int) -> int:
    l2_kib = cluster.l2_kib if cluster.l2_shared else cluster.l2_kib * cores
    return (l2_kib + cluster.l3_kib) * 1024
