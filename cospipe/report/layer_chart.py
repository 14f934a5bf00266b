"""Time of every kernel on every core configuration, as bars."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from cospipe.ir.plan import PipelinePlan
from cospipe.report.colours import cluster_colours, plain, stage_colour
from cospipe.report.kernels import Kernel

_KERNEL_PX = 20


def layer_chart(kernels: Sequence[Kernel], plan: PipelinePlan) -> go.Figure:
    """Draw a group of bars a kernel; of each cluster the most cores are shown at first, others by a click."""
    configurations = list(kernels[0].latency_us) if kernels else []
    colours = cluster_colours(configurations)
    whole = _most_cores(configurations)
    figure = go.Figure()
    for configuration in configurations:
        figure.add_bar(
            name=plain(configuration),
            x=list(range(len(kernels))),
            y=[kernel.latency_us[configuration] / 1e3 for kernel in kernels],
            customdata=[[plain(kernel.name), plain(kernel.kind)] for kernel in kernels],
            hovertemplate=f"%{{customdata[0]}} (%{{customdata[1]}}): %{{y:.3f}} ms on {plain(configuration)}"
            "<extra></extra>",
            marker={"color": colours[configuration], "line": {"width": 0}},
            visible=True if configuration in whole else "legendonly",
        )
    _shade_stages(figure, kernels, plan)
    figure.update_layout(
        height=460,
        meta={"min_width": 140 + _KERNEL_PX * len(kernels)},
        barmode="group",
        bargap=0.25,
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(kernels))),
            "ticktext": [plain(_short(kernel.name)) for kernel in kernels],
            "tickangle": -60,
            "tickfont": {"size": 10},
            "range": [-0.6, len(kernels) - 0.4],
            "showgrid": False,
        },
        yaxis={"title": {"text": "predicted time (ms)"}, "rangemode": "tozero"},
        legend={"y": 1.12, "yanchor": "bottom"},
        margin={"l": 60, "r": 10, "t": 90, "b": 110},
    )
    return figure


def _most_cores(configurations: Sequence[str]) -> set[str]:
    most: dict[str, str] = {}
    for configuration in configurations:
        cluster, _, cores = configuration.rpartition(":")
        if cluster not in most or int(cores) > int(most[cluster].rpartition(":")[2]):
            most[cluster] = configuration
    return set(most.values())


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"


def _shade_stages(figure: go.Figure, kernels: Sequence[Kernel], plan: PipelinePlan) -> None:
    for position, stage in enumerate(plan.stages):
        places = [number for number, kernel in enumerate(kernels) if kernel.stage == position]
        if places:
            figure.add_vrect(
                x0=min(places) - 0.5,
                x1=max(places) + 0.5,
                fillcolor=stage_colour(position),
                opacity=0.09,
                line_width=0,
                layer="below",
                annotation_text=plain(stage.name),
                annotation_position="top left",
                annotation_font={"size": 11, "color": stage_colour(position)},
            )
