"""A roofline for each cluster: how fast every kernel is predicted to run, and what the cores and memory allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cospipe.ir.soc import Cluster, Soc
from cospipe.report.axes import logarithmic
from cospipe.report.colours import NEUTRAL, STAGES, plain
from cospipe.report.kernels import Kernel

_COLUMNS = 2


def roofline_chart(kernels: Sequence[Kernel], soc: Soc) -> go.Figure:
    """Draw every kernel with a matrix product as a point, on all cores of each cluster."""
    clusters = [cluster for cluster in soc.clusters if _key(cluster) in (kernels[0].latency_us if kernels else {})]
    rows = max(1, math.ceil(len(clusters) / _COLUMNS))
    columns = max(1, min(_COLUMNS, len(clusters)))
    titles = [plain(f"{c.name}: {c.cores}x {c.core_type}") for c in clusters] or [""]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.09)
    counted = [kernel for kernel in kernels if kernel.macs and kernel.moved_bytes]
    for number, cluster in enumerate(clusters):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        _draw_roof(figure, cluster, counted, place)
        _draw_points(figure, cluster, counted, place, shows_legend=number == 0)
    figure.update_xaxes(title_text="operations for each byte moved (FLOP/byte)", **logarithmic(_drawn(figure, "x")))
    figure.update_yaxes(title_text="GFLOP/s", **logarithmic(_drawn(figure, "y")))
    figure.update_layout(
        height=110 + 370 * rows, margin={"l": 60, "r": 10, "t": 50, "b": 110}, legend={"y": -0.22 / rows}
    )
    return figure


def _drawn(figure: go.Figure, axis: str) -> list[float]:
    return [value for trace in figure.data for value in trace[axis] if value > 0] or [1.0]


def _key(cluster: Cluster) -> str:
    return f"{cluster.name}:{cluster.cores}"


def _intensity(kernel: Kernel) -> float:
    return 2 * kernel.macs / kernel.moved_bytes


def _draw_roof(figure: go.Figure, cluster: Cluster, kernels: Sequence[Kernel], place: dict[str, int]) -> None:
    roofs = {cores: (cluster.peak_gflops_per_core * cores, bandwidth) for cores, bandwidth in _bandwidths(cluster)}
    reached = [_intensity(kernel) for kernel in kernels] + [peak / bandwidth for peak, bandwidth in roofs.values()]
    for cores, (peak, bandwidth) in roofs.items():
        x = [min(reached) / 2, peak / bandwidth, max(reached) * 2]
        figure.add_scatter(
            x=x,
            y=[min(peak, bandwidth * value) for value in x],
            mode="lines",
            line={"color": NEUTRAL, **({"width": 2} if cores == cluster.cores else {"width": 1.3, "dash": "dot"})},
            name=f"{cores} core(s): peak and memory bandwidth",
            hovertemplate=f"{cores} core(s): at most {peak:.1f} GFLOP/s and {bandwidth:.1f} GB/s<extra></extra>",
            showlegend=False,
            **place,
        )


def _bandwidths(cluster: Cluster) -> list[tuple[int, float]]:
    """Return the memory bandwidth of all cores and of one."""
    return [(cores, cluster.memory_bandwidth_gb_per_s[cores - 1]) for cores in dict.fromkeys((cluster.cores, 1))]


def _draw_points(
    figure: go.Figure, cluster: Cluster, kernels: Sequence[Kernel], place: dict[str, int], shows_legend: bool
) -> None:
    kinds = list(dict.fromkeys(kernel.kind for kernel in kernels))
    for number, kind in enumerate(kinds):
        chosen = [kernel for kernel in kernels if kernel.kind == kind and kernel.latency_us[_key(cluster)] > 0]
        times_us = [kernel.latency_us[_key(cluster)] for kernel in chosen]
        figure.add_scatter(
            x=[_intensity(kernel) for kernel in chosen],
            y=[2 * kernel.macs / time_us / 1e3 for kernel, time_us in zip(chosen, times_us, strict=True)],
            mode="markers",
            name=plain(kind),
            legendgroup=kind,
            showlegend=shows_legend,
            marker={"color": STAGES[number % len(STAGES)], "size": 9, "opacity": 0.8, "line": {"width": 0}},
            text=[plain(kernel.name) for kernel in chosen],
            customdata=[time_us / 1e3 for time_us in times_us],
            hovertemplate="%{text}: %{customdata:.3f} ms, %{y:.3g} GFLOP/s at %{x:.3g} FLOP/byte<extra></extra>",
            **place,
        )
