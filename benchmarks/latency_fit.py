"""Fitting the analytic latency model to measured kernels: which share of a core's peak each kind of layer reaches.

The share of a kind is the one with which the model, given this machine's measured peak and bandwidth, predicts the time
that all kernels of this kind took together on one core. ``operations_per_element`` stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from core_limits import CoreLimits
from efficiency_summary import number, whole_number
from environment import Row, Value

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.kernel_libraries import KernelEfficiency
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc

_FP32_BYTES = 4
_LOWEST, _HIGHEST = 1e-4, 8.0
_STEPS = 60


def measured_host(host: Soc, limits: CoreLimits) -> Soc:
    """Return a description of this machine with the measured speed of one core of its fastest cluster."""
    cluster = host.clusters[0]
    clock_mhz = limits.gflops * 1e3 / cluster.flop_per_cycle
    rates = (limits.gb_per_s["memory"], *cluster.memory_bandwidth_gb_per_s[1:])
    measured = cluster.model_copy(update={"clock_mhz": (clock_mhz,), "memory_bandwidth_gb_per_s": rates})
    return host.model_copy(update={"clusters": (measured, *host.clusters[1:])})


def descriptor(row: Row) -> LayerDescriptor:
    """Return the layer that a kernel's row stands for; what is fused behind it counts with its bytes."""
    output_bytes = whole_number(row, "output_bytes")
    return LayerDescriptor(
        kind=LayerKind(str(row["layer_kind"])),
        gemm_n=output_bytes // _FP32_BYTES,
        gemm_k=0,
        gemm_m=0,
        macs=whole_number(row, "macs"),
        input_bytes=whole_number(row, "input_bytes"),
        weight_bytes=whole_number(row, "weight_bytes"),
        output_bytes=output_bytes,
    )


def fit(rows: Sequence[Row], soc: Soc, efficiency: Mapping[LayerKind, KernelEfficiency]) -> list[dict[str, Value]]:
    """Return one row for each kind of layer among measured kernels of one thread.

    Parameters
    ----------
    rows : sequence of Row
        Of kernels.
    soc : Soc
        This machine, see :func:`measured_host`.
    efficiency : mapping of LayerKind to KernelEfficiency
        The table to correct.

    Returns
    -------
    list of dict
        ``peak_fraction`` is None where memory and start alone already take as long as was measured.
        ``typical_error`` is the median of how far predictions of single kernels are off, relative to measured times.
    """
    groups: dict[LayerKind, list[Row]] = {}
    for row in rows:
        groups.setdefault(LayerKind(str(row["layer_kind"])), []).append(row)
    return [_fit_kind(kind, groups[kind], soc, efficiency[kind]) for kind in efficiency if kind in groups]


def _fit_kind(kind: LayerKind, rows: Sequence[Row], soc: Soc, old: KernelEfficiency) -> dict[str, Value]:
    layers, times = [descriptor(row) for row in rows], [number(row, "time_us") for row in rows]

    def predictions(fraction: float) -> list[float]:
        new = KernelEfficiency(fraction, old.operations_per_element)
        model = AnalyticLatencyModel(soc, efficiency={kind: new})
        core = CoreConfiguration(soc.clusters[0].name, 1)
        return [model.predict_us(layer, core) for layer in layers]

    fraction = _where_equal(lambda share: sum(predictions(share)), sum(times))
    errors = [abs(p - t) / t for p, t in zip(predictions(fraction or 1.0), times, strict=True)]
    return {
        "layer_kind": kind.value,
        "kernels": len(rows),
        "time_ms": round(sum(times) / 1e3, 3),
        "old_peak_fraction": old.peak_fraction,
        "peak_fraction": None if fraction is None else float(f"{fraction:.2g}"),
        "operations_per_element": old.operations_per_element,
        "typical_error": round(median(errors), 2),
    }


def _where_equal(falling: Callable[[float], float], value: float) -> float | None:
    """Return where a falling function has a value, or None when it stays above; by bisection of the exponent."""
    low, high = _LOWEST, _HIGHEST
    if falling(high) >= value:
        return None
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if falling(middle) > value else (low, middle)
    return high


def table_text(fitted: Sequence[Row]) -> str:
    """Return the entries of ``CPU_EFFICIENCY`` as Python."""
    lines = []
    for row in fitted:
        share = row["old_peak_fraction"] if row["peak_fraction"] is None else row["peak_fraction"]
        count = row["operations_per_element"]
        operations = f", operations_per_element={count:g}" if count else ""
        lines.append(f"    LayerKind.{str(row['layer_kind']).upper()}: KernelEfficiency({share}{operations}),")
    return "\n".join(lines)
