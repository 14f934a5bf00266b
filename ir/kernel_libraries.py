"""How well the kernels of several libraries use a core: constants of the analytic latency model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cospipe.ir.errors import UsageError, nearest
from cospipe.ir.latency import CPU_KERNELS
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_features import is_square_and_dense


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
    direct_fraction, winograd_fraction : float or None
        The share of convolutions computed directly, and by Winograd's method; ``peak_fraction`` when not told apart
        or the kernel's size is unknown.
    winograd_kernels : tuple of int
        Sides of the square kernels that are computed by Winograd's method.
    winograd_channels : int
        Fewest input channels for that.
    """

    peak_fraction: float
    operations_per_element: float = 0.0
    direct_fraction: float | None = None
    winograd_fraction: float | None = None
    winograd_kernels: tuple[int, ...] = (3,)
    winograd_channels: int = 16

    def takes_winograd(self, layer: LayerDescriptor) -> bool:
        """Return whether a layer is computed by Winograd's method."""
        if self.winograd_fraction is None or not is_square_and_dense(layer):
            return False
        side = layer.kernel[0]
        return side in self.winograd_kernels and layer.gemm_k >= self.winograd_channels * side * side

    def share_of_peak(self, layer: LayerDescriptor) -> float:
        """Return the share of the peak for one layer."""
        if self.winograd_fraction is not None and self.takes_winograd(layer):
            return self.winograd_fraction
        return self.peak_fraction if self.direct_fraction is None or not layer.kernel else self.direct_fraction


CPU_EFFICIENCY: Mapping[LayerKind, KernelEfficiency] = {
    LayerKind.CONV: KernelEfficiency(1.7, direct_fraction=0.8, winograd_fraction=2.4),
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


def _arm_library(
    direct: float, winograd: float, depthwise: float, pointwise: float = 1.0, kernels: tuple[int, ...] = (3,)
) -> dict[LayerKind, KernelEfficiency]:
    convolution = KernelEfficiency(direct, direct_fraction=direct, winograd_fraction=winograd, winograd_kernels=kernels)
    measured = {
        LayerKind.CONV: convolution,
        LayerKind.POINTWISE_CONV: KernelEfficiency(pointwise),
        LayerKind.DEPTHWISE_CONV: KernelEfficiency(depthwise),
    }
    return {**CPU_EFFICIENCY, **measured}


LIBRARIES: Mapping[str, Mapping[LayerKind, KernelEfficiency]] = {
    CPU_KERNELS: CPU_EFFICIENCY,
    "ARM Compute Library": _arm_library(direct=0.86, winograd=1.72, depthwise=0.1),
    "MNN": _arm_library(direct=0.98, winograd=2.5, depthwise=0.1, kernels=(3, 5)),
    "AutoTVM": _arm_library(direct=0.86, winograd=2.0, depthwise=0.23, pointwise=0.93),
}
"""Convolutions of other libraries, fitted to published measurements relative to each core's ``kernel_efficiency``: ARM
Compute Library on an RK3399Pro (github.com/Ehsan-aghapour CO-UP-Profiling and LW-GA), MNN on a Huawei P40 and a OnePlus
5T (github.com/summerspringwei/DAG-Scheduler), AutoTVM on an RK3399 and a Snapdragon 835 (github.com/tlc-pack/tophub).
Their other layers, and MNN's depthwise convolutions, are guesses taken from above."""


def library_efficiency(library: str, kernel: str = "") -> Mapping[LayerKind, KernelEfficiency]:
    """Return the constants of a library.

    Parameters
    ----------
    library : str
        A name in :data:`LIBRARIES`.
    kernel : str
        What computes the convolutions, when that is known: a name with ``winograd`` in it computes all of them so, any
        other none.

    Raises
    ------
    UsageError
        When nobody described that library.
    """
    if library not in LIBRARIES:
        raise UsageError(f"There are no constants of the kernel library {library!r}. {nearest(library, LIBRARIES)}")
    known = LIBRARIES[library]
    if not kernel:
        return known
    convolution = known[LayerKind.CONV]
    by_winograd = "winograd" in kernel.lower() and convolution.winograd_fraction is not None
    channels = 1 if by_winograd else 1 << 40
    return {**known, LayerKind.CONV: replace(convolution, winograd_channels=channels)}
