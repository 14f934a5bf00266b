"""The network with its cuts: kernels from left to right in the order they run, in the colour of their stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from cospipe.ir.plan import PipelinePlan
from cospipe.pictures import milliseconds, size
from cospipe.report.colours import NEUTRAL, STRONG, plain, stage_colour
from cospipe.report.kernels import Kernel

Points = list[tuple[float | None, float | None]]

_CURVE = [step / 8 for step in range(9)]
_LANE_PX = 26
_MOST_PX = 560
_KERNEL_PX = 13


def lanes_of(kernels: Sequence[Kernel]) -> dict[str, int]:
    """Give each kernel a lane such that no result runs through another kernel on its way to its last reader.

    Like the branches of a version history: a result keeps its lane until its last reader has run; a kernel takes the
    lowest lane that is free then.
    """
    last_reader = {read: kernel.name for kernel in kernels for read in kernel.reads}
    lanes: dict[str, int] = {}
    taken: dict[str, int] = {}
    for kernel in kernels:
        for read in kernel.reads:
            if last_reader[read] == kernel.name:
                taken.pop(read, None)
        used = set(taken.values())
        lane = next(number for number in range(len(used) + 1) if number not in used)
        lanes[kernel.name] = lane
        if kernel.name in last_reader:
            taken[kernel.name] = lane
    return lanes


def network_chart(kernels: Sequence[Kernel], plan: PipelinePlan) -> go.Figure:
    """Draw kernels, the tensors between them, and the cuts; the area of a dot is the kernel's time on its stage."""
    lanes = lanes_of(kernels)
    places = {kernel.name: (float(number), float(lanes[kernel.name])) for number, kernel in enumerate(kernels)}
    figure = go.Figure()
    _draw_tensors(figure, kernels, places)
    longest_us = max((kernel.time_us(plan.stages[kernel.stage]) for kernel in kernels), default=0.0) or 1.0
    for position in range(len(plan.stages)):
        _draw_stage(figure, [k for k in kernels if k.stage == position], plan, position, places, longest_us)
    last_lane = max(lanes.values(), default=0)
    _draw_cuts(figure, kernels, plan, last_lane)
    figure.update_layout(
        height=170 + min(_MOST_PX, _LANE_PX * (last_lane + 1)),
        meta={"min_width": 160 + _KERNEL_PX * len(kernels)},
        xaxis={"visible": False, "range": [-1.5, len(kernels) + 0.5]},
        yaxis={"visible": False, "range": [last_lane + 0.8, -0.9]},
        hovermode="closest",
        margin={"l": 10, "r": 10, "t": 46, "b": 10},
    )
    return figure


def _draw_tensors(figure: go.Figure, kernels: Sequence[Kernel], places: Mapping[str, tuple[float, float]]) -> None:
    stage_of = {kernel.name: kernel.stage for kernel in kernels}
    inside: Points = []
    handed_over: Points = []
    for kernel in kernels:
        for read in kernel.reads:
            way = handed_over if stage_of[read] != kernel.stage else inside
            way += [*_way(places[read], places[kernel.name]), (None, None)]
    for points, name, colour, width in (
        (inside, "tensor", NEUTRAL, 1.2),
        (handed_over, "tensor handed over to another stage", STRONG, 1.6),
    ):
        if points:
            x, y = zip(*points, strict=True)
            figure.add_scatter(
                x=x, y=y, mode="lines", name=name, line={"color": colour, "width": width}, hoverinfo="skip"
            )


def _way(start: tuple[float, float], end: tuple[float, float]) -> Points:
    """Run along the producer's lane, and change to the reader's at the end."""
    if start[1] == end[1]:
        return [start, end]
    turn = max(start[0], end[0] - 1)
    change = [(turn + (end[0] - turn) * t, start[1] + (end[1] - start[1]) * t * t * (3 - 2 * t)) for t in _CURVE]
    return [start, (turn, start[1]), *change]


def _draw_stage(
    figure: go.Figure,
    kernels: Sequence[Kernel],
    plan: PipelinePlan,
    position: int,
    places: Mapping[str, tuple[float, float]],
    longest_us: float,
) -> None:
    stage = plan.stages[position]
    times_us = [kernel.time_us(stage) for kernel in kernels]
    figure.add_scatter(
        x=[places[kernel.name][0] for kernel in kernels],
        y=[places[kernel.name][1] for kernel in kernels],
        mode="markers",
        name=plain(f"{stage.name} on {stage.text}: {len(kernels)} kernels, {milliseconds(stage.time_us)}"),
        marker={
            "color": stage_colour(position),
            "size": [7 + 15 * math.sqrt(time_us / longest_us) for time_us in times_us],
            "line": {"width": 1, "color": "rgba(255,255,255,0.55)"},
            "opacity": 1,
        },
        text=[_description(kernel, time_us, stage.text) for kernel, time_us in zip(kernels, times_us, strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )


def _description(kernel: Kernel, time_us: float, cores: str) -> str:
    lines = [f"<b>{plain(kernel.name)}</b> ({plain(kernel.kind)})", plain(kernel.module)]
    if kernel.fused:
        lines.append("with " + plain(", ".join(kernel.fused[:4])) + (" …" if len(kernel.fused) > 4 else ""))
    lines.append(f"{milliseconds(time_us)} on {plain(cores)}, {kernel.macs / 1e6:,.1f} million MACs")
    return "<br>".join(line for line in lines if line)


def _draw_cuts(figure: go.Figure, kernels: Sequence[Kernel], plan: PipelinePlan, lanes: int) -> None:
    for position, stage in enumerate(plan.stages[1:], start=1):
        first = next((number for number, kernel in enumerate(kernels) if kernel.stage == position), None)
        if first is None:
            continue
        line = {"dash": "dash", "color": STRONG, "width": 1.4}
        figure.add_shape(type="line", x0=first - 0.5, x1=first - 0.5, y0=-0.75, y1=lanes + 0.7, line=line)
        figure.add_annotation(
            x=first - 0.5,
            y=-0.75,
            text=f"cut: {size(stage.hand_over_bytes)}, {milliseconds(stage.hand_over_us)}",
            showarrow=False,
            yshift=9,
            font={"size": 11, "color": STRONG},
        )
