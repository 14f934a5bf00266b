"""The time of a layer on a GPU or NPU: a roofline with the few numbers that an SoC description has of one."""

from __future__ import annotations

from typing import Final

from cospipe.ir.errors import UsageError
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.soc import Accelerator

_FEW_INPUTS_AN_OUTPUT: Final = (LayerKind.DEPTHWISE_CONV, LayerKind.GROUPED_CONV)
"""Kinds whose products share little data, so that an accelerator reaches its ``depthwise_gflops`` only."""


def accelerator_us(layer: LayerDescriptor, accelerator: Accelerator) -> float:
    """Return the predicted microseconds of one layer on an accelerator.

    A kernel takes the longer of computing and moving bytes, plus its start:

    * computing: 2 operations a MAC at ``gflops``, or ``depthwise_gflops`` for depthwise and grouped convolutions;
      layers without a matrix product compute for free;
    * moving: inputs, weights and output once, at ``memory_bandwidth_gb_per_s``. Caches are not counted on: those of
      mobile GPUs are smaller than the tensors;
    * start: ``launch_us``.

    As on cores (:class:`cospipe.ir.analytic_latency.AnalyticLatencyModel`), a fused layer costs only the bytes it reads
    in addition, and a view costs nothing.

    Parameters
    ----------
    layer : LayerDescriptor
        The layer.
    accelerator : Accelerator
        One with ``gflops`` and ``memory_bandwidth_gb_per_s``.

    Raises
    ------
    UsageError
        When the description has no rates of this accelerator.
    """
    gflops, gb_per_s = accelerator.gflops, accelerator.memory_bandwidth_gb_per_s
    if gflops is None or gb_per_s is None:
        raise UsageError(
            f"The rates of {accelerator.name} are not known; "
            "give it gflops and memory_bandwidth_gb_per_s in the SoC description."
        )
    if layer.fused_into is not None:
        return (layer.input_bytes + layer.weight_bytes) / (gb_per_s * 1e3)
    if not layer.total_bytes:
        return 0.0
    if layer.kind in _FEW_INPUTS_AN_OUTPUT:
        gflops = accelerator.depthwise_gflops or gflops
    computing_us = 2 * layer.macs / (gflops * 1e3)
    return max(computing_us, layer.total_bytes / (gb_per_s * 1e3)) + accelerator.launch_us
