"""The latency model that needs no measurement: a roofline for each core type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cospipe.ir.kernel_libraries import CPU_EFFICIENCY, KernelEfficiency
from cospipe.ir.latency import CPU_KERNELS, LatencyModel, LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_features import is_square_and_dense
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Cluster, Soc

ROW_BLOCK = 8
"""Rows of a matrix product that a core takes at a time."""
_FLOAT_BYTES = 4
_TRANSFORMED_WEIGHTS = 4  # F(4x4, 3x3) makes 36 numbers of 9


HELD_OUT_ERROR: Mapping[str, float] = {"cortex-a53": 0.15, "cortex-a72": 0.15, "cortex-a73": 0.15}
"""Median relative error of one convolution by core type, networks left out, with other libraries' kernels: ARM Compute
Library on RK3399Pro, AutoTVM on four cores derived from the A73 (``benchmarks/latency_prediction.py``). Ours were not
measured on ARM boards; other core types were not checked."""


@dataclass(frozen=True)
class AnalyticLatencyModel(LatencyModel):
    """A roofline for each core type; it needs no measurement.

    A kernel takes the longer of computing and moving bytes, plus its start:

    * computing: 2 operations a MAC (or ``operations_per_element`` an output element), at the peak of the cores times
      the cluster's kernel and parallel efficiency times the kernel's share of the peak. A matrix product computes
      whole vectors of columns, and waits for the core with the largest share of its row blocks. Square convolutions
      with enough channels are computed by Winograd's method;
    * moving: weights and output once, inputs only when they are too large to be still in the last-level cache, where
      the layer before left them, at the DRAM bandwidth that many cores reach. Winograd's transformed weights are
      four times as many. Depthwise and fully connected layers, which compute little with each byte, end here;
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

    def predict(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None
    ) -> LatencyPrediction:
        """Return the prediction for one layer on some cores of a cluster; ``node`` makes no difference.

        Raises
        ------
        UsageError
            When the chip does not have these cores.
        """
        self.soc.check_cores([configuration])
        cluster, cores = self.soc.cluster(configuration.cluster), configuration.cores
        error = HELD_OUT_ERROR.get(cluster.core_type)
        if layer.fused_into is not None:
            moving_us = _moving_us(layer.input_bytes + layer.weight_bytes, cluster, cores)
            return LatencyPrediction(moving_us, LatencySource.ANALYTIC, error, clock_bound=0.0)
        if not layer.total_bytes:
            return LatencyPrediction(0.0, LatencySource.ANALYTIC, error)
        moving_us = self.moving_us(layer, configuration)
        computing_us, start_us = self._computing_us(layer, cluster, cores), self._start_us(cluster, cores)
        time_us = max(computing_us, moving_us) + start_us
        clock_bound = 1.0 if computing_us >= moving_us else start_us / time_us
        return LatencyPrediction(time_us, LatencySource.ANALYTIC, error, clock_bound)

    def moving_us(self, layer: LayerDescriptor, configuration: CoreConfiguration) -> float:
        """Return the microseconds in which the bytes of a layer come from DRAM and go there, without those in cache."""
        cluster, cores = self.soc.cluster(configuration.cluster), configuration.cores
        return _moving_us(self._dram_bytes(layer, _cache_bytes(cluster, cores)), cluster, cores)

    def _computing_us(self, layer: LayerDescriptor, cluster: Cluster, cores: int) -> float:
        kernel = self.efficiency[layer.kind]
        operations = 2 * layer.macs or kernel.operations_per_element * layer.gemm_n
        peak_gflops = (
            cluster.peak_gflops_per_core * cluster.kernel_efficiency * cores * cluster.parallel_efficiency[cores - 1]
        )
        waste = _tiling_waste(layer, cores, cluster.simd_bytes // _FLOAT_BYTES)
        return waste * operations / (peak_gflops * kernel.share_of_peak(layer) * 1e3)

    def _dram_bytes(self, layer: LayerDescriptor, cache_bytes: int) -> int:
        is_input_cached = layer.input_bytes + layer.output_bytes <= cache_bytes
        is_transformed = self.efficiency[layer.kind].takes_winograd(layer)
        weight_bytes = layer.weight_bytes * (_TRANSFORMED_WEIGHTS if is_transformed else 1)
        return weight_bytes + layer.output_bytes + (0 if is_input_cached else layer.input_bytes)

    def _start_us(self, cluster: Cluster, cores: int) -> float:
        cycles = self.launch_cycles + (self.fork_cycles if cores > 1 else 0)
        return cycles / cluster.max_clock_mhz


def _moving_us(moved_bytes: float, cluster: Cluster, cores: int) -> float:
    return moved_bytes / (cluster.memory_bandwidth_gb_per_s[cores - 1] * 1e3)


def _tiling_waste(layer: LayerDescriptor, cores: int, vector: int) -> float:
    """Return what is computed in whole tiles, by the core that gets most of them, relative to the product itself.

    1 for layers without a matrix product, and where a row block is so small a share that it does not matter.
    """
    if not layer.macs or layer.gemm_n * layer.gemm_k * layer.gemm_m != layer.macs or is_square_and_dense(layer):
        return 1.0
    if layer.kind is LayerKind.DEPTHWISE_CONV:
        return 1.0
    blocks = -(-layer.gemm_n // ROW_BLOCK)
    largest_share = -(-blocks // cores) / blocks * cores if blocks > 1 else 1.0
    columns = -(-layer.gemm_m // vector) * vector / layer.gemm_m
    return largest_share * columns


def _cache_bytes(cluster: Cluster, cores: int) -> int:
    l2_kib = cluster.l2_kib if cluster.l2_shared else cluster.l2_kib * cores
    return (l2_kib + cluster.l3_kib) * 1024
