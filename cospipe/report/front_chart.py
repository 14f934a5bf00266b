"""The Pareto front: period, latency and energy of every plan worth having, and of those it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from cospipe.ir.exploration import Exploration, Option
from cospipe.ir.plan import PipelinePlan
from cospipe.pictures import milliseconds
from cospipe.report.axes import Scale
from cospipe.report.colours import NEUTRAL, STAGES, STRONG, plain
from cospipe.report.label_places import label_places

_PLOT_PX = (900.0, 360.0)
"""About how large the plot is in a window of usual width; labels are placed for that."""


def front_chart(exploration: Exploration) -> go.Figure:
    """Draw plans by period and latency; points of the front in the colour of their energy, where it is known."""
    compared = (*exploration.kinds, *exploration.baselines)
    plans = [exploration.chosen, *(option.plan for option in (*exploration.front, *compared))]
    across = Scale(tuple(plan.period_us / 1e3 for plan in plans))
    up = Scale(tuple(plan.latency_us / 1e3 for plan in plans))
    figure = go.Figure()
    _draw_front(figure, exploration.front)
    _draw_compared(figure, exploration, _sides(compared, plans, across, up))
    _draw_chosen(figure, exploration.chosen)
    figure.update_layout(
        height=500,
        xaxis=across.axis("period: time between two results (ms)"),
        yaxis=up.axis("latency: way of one frame (ms)"),
        margin={"l": 70, "r": 10, "t": 20, "b": 100},
        legend={"y": -0.2},
    )
    return figure


def _sides(options: Sequence[Option], plans: Sequence[PipelinePlan], across: Scale, up: Scale) -> list[str]:
    def pixels(plan: PipelinePlan) -> tuple[float, float]:
        x, y = across.place(plan.period_us / 1e3), up.place(plan.latency_us / 1e3)
        return x * _PLOT_PX[0], (1 - y) * _PLOT_PX[1]

    points = [pixels(option.plan) for option in options]
    return label_places(points, [option.name for option in options], [pixels(plan) for plan in plans], _PLOT_PX)


def _draw_front(figure: go.Figure, front: Sequence[Option]) -> None:
    if not front:
        return
    energies = [option.plan.energy_mj for option in front]
    marker: dict[str, Any] = {"size": 11, "color": STAGES[2]}
    if all(energy is not None for energy in energies):
        bar = {"title": {"text": "energy<br>(mJ a frame)<br> "}, "thickness": 12, "len": 0.8}
        marker |= {"color": energies, "colorscale": "Viridis", "colorbar": bar}
    edge = without_energy([option.plan for option in front])
    figure.add_scatter(
        x=[plan.period_us / 1e3 for plan in edge],
        y=[plan.latency_us / 1e3 for plan in edge],
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[option.plan.period_us / 1e3 for option in front],
        y=[option.plan.latency_us / 1e3 for option in front],
        mode="markers",
        name="Pareto front (energy counts, too)",
        marker=marker,
        text=[_description(option.name, option.plan) for option in front],
        hovertemplate="%{text}<extra></extra>",
    )


def without_energy(plans: Sequence[PipelinePlan]) -> list[PipelinePlan]:
    """Return the plans that no other beats in period and latency, by rising period: the edge of what can be had."""
    edge: list[PipelinePlan] = []
    for plan in sorted(plans, key=lambda plan: (plan.period_us, plan.latency_us)):
        if not edge or plan.latency_us < edge[-1].latency_us:
            edge.append(plan)
    return edge


def _draw_compared(figure: go.Figure, exploration: Exploration, sides: Sequence[str]) -> None:
    """Draw kinds and baselines, those apart that cannot be chosen."""
    compared = (*exploration.kinds, *exploration.baselines)
    of_kind = [True] * len(exploration.kinds) + [False] * len(exploration.baselines)
    looks = {
        (True, True): ("best of its kind", "diamond-open", STAGES[0]),
        (False, True): ("baseline", "square-open", STAGES[1]),
        (True, False): ("best of its kind, cannot run or exceeds a limit", "diamond-open", NEUTRAL),
        (False, False): ("baseline, cannot run or exceeds a limit", "square-open", NEUTRAL),
    }
    for (is_kind, is_possible), (name, symbol, colour) in looks.items():
        chosen = [
            (option, side)
            for option, side, kind in zip(compared, sides, of_kind, strict=True)
            if kind == is_kind and (not option.cannot_run and not option.exceeds) == is_possible
        ]
        if chosen:
            _draw_options(figure, chosen, name, {"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2}})


def _draw_options(figure: go.Figure, options: Sequence[tuple[Option, str]], name: str, marker: dict[str, Any]) -> None:
    figure.add_scatter(
        x=[option.plan.period_us / 1e3 for option, _ in options],
        y=[option.plan.latency_us / 1e3 for option, _ in options],
        mode="markers+text",
        name=name,
        marker=marker,
        text=[plain(option.name) if side else "" for option, side in options],
        textposition=[side or "top center" for _, side in options],
        textfont={"size": 11, "color": marker["color"]},
        hovertext=[_description(option.name, option.plan) for option, _ in options],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_chosen(figure: go.Figure, plan: PipelinePlan) -> None:
    figure.add_scatter(
        x=[plan.period_us / 1e3],
        y=[plan.latency_us / 1e3],
        mode="markers",
        name="chosen",
        marker={"symbol": "star", "size": 19, "color": STRONG, "line": {"width": 1, "color": "white"}},
        text=[_description("chosen", plan)],
        hovertemplate="%{text}<extra></extra>",
    )


def _description(name: str, plan: PipelinePlan) -> str:
    lines = [f"<b>{plain(name)}</b>", *(plain(f"{stage.name}: {stage.text}") for stage in plan.stages)]
    lines.append(f"period {milliseconds(plan.period_us)}, latency {milliseconds(plan.latency_us)}")
    if plan.energy_mj is not None:
        lines.append(f"{plan.energy_mj:.3g} mJ a frame")
    return "<br>".join(lines)
