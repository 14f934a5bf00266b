"""Stages over time: who works on which frame, from the simulator."""

from __future__ import annotations

from collections import Counter

import plotly.graph_objects as go

from cospipe.ir.plan import PipelinePlan
from cospipe.ir.simulation import Simulation, Work
from cospipe.pictures import milliseconds
from cospipe.report.colours import STRONG, plain, stage_colour

_MOST_BARS = 260
_LEAST_FRAMES = 16
_ROW_PX = 34
RESULTS = "results"


def time_chart(plan: PipelinePlan, simulation: Simulation) -> go.Figure:
    """Draw the first frames on every replica of every stage."""
    replicas = sum(len(stage.replicas) for stage in plan.stages)
    frames = min(simulation.frames, max(_LEAST_FRAMES, 4 * replicas), max(2, _MOST_BARS // len(plan.stages)))
    shown = [work for work in simulation.timeline if work.frame < frames]
    figure = go.Figure()
    for position in range(len(plan.stages)):
        _draw_stage(figure, [work for work in shown if work.stage == position], plan, position)
    rows = [row_name(plan, i, k) for i, stage in enumerate(plan.stages) for k in range(len(stage.replicas))]
    _draw_results(figure, simulation, frames)
    figure.update_layout(
        height=150 + _ROW_PX * (len(rows) + 1),
        barmode="overlay",
        showlegend=False,
        xaxis={"title": {"text": "time (ms)"}, "rangemode": "tozero"},
        yaxis={"categoryorder": "array", "categoryarray": [RESULTS, *rows[::-1]], "automargin": True},
        margin={"l": 10, "r": 20, "t": 40, "b": 50},
    )
    return figure


def row_name(plan: PipelinePlan, stage: int, replica: int) -> str:
    """Return how a replica is called beside its row."""
    planned = plan.stages[stage]
    number = f" #{replica + 1}" if len(planned.replicas) > 1 else ""
    return plain(f"{planned.name}{number} on {planned.replicas[replica].text}")


def _draw_stage(figure: go.Figure, works: list[Work], plan: PipelinePlan, position: int) -> None:
    figure.add_bar(
        orientation="h",
        name=plain(plan.stages[position].name),
        y=[row_name(plan, position, work.replica) for work in works],
        base=[work.start_us / 1e3 for work in works],
        x=[(work.end_us - work.start_us) / 1e3 for work in works],
        text=[str(work.frame) for work in works],
        customdata=[[f"{work.start_us / 1e3:.2f}", milliseconds(work.end_us - work.start_us)] for work in works],
        hovertemplate="frame %{text}: from %{customdata[0]} ms, busy %{customdata[1]}<extra></extra>",
        textposition="inside",
        insidetextanchor="middle",
        textfont={"color": "white", "size": 11},
        textangle=0,
        constraintext="inside",
        cliponaxis=True,
        width=0.72,
        marker={
            "color": stage_colour(position),
            "opacity": _alternating(works),
            "line": {"width": 0},
        },
    )


def _alternating(works: list[Work]) -> list[float]:
    """Make neighbours on a row differ, so that frames can be told apart."""
    seen = Counter[int]()
    opacities = []
    for work in works:
        opacities.append(0.68 if seen[work.replica] % 2 else 1.0)
        seen[work.replica] += 1
    return opacities


def _draw_results(figure: go.Figure, simulation: Simulation, frames: int) -> None:
    """Draw when results leave, in a row of their own."""
    figure.add_scatter(
        x=[left_us / 1e3 for left_us in simulation.left_us[:frames]],
        y=[RESULTS] * frames,
        mode="markers",
        name=RESULTS,
        marker={"symbol": "diamond", "size": 9, "color": STRONG, "opacity": 0.85},
        text=[
            f"result of frame {frame} after {latency_us / 1e3:.2f} ms"
            for frame, latency_us in enumerate(simulation.latencies_us[:frames])
        ],
        hovertemplate="%{text}, at %{x:.2f} ms<extra></extra>",
    )
    if simulation.period_us is not None:
        text = f"a result every {milliseconds(simulation.period_us)} on average"
        figure.add_annotation(
            x=1,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="bottom",
            text=text,
            showarrow=False,
            font={"color": STRONG},
        )
