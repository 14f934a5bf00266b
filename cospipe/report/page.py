"""The page: sections in the order a reader asks for them, the charts as data, Plotly's code once."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from cospipe.ir.exploration import Exploration, Limits
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.simulation import Simulation
from cospipe.ir.simulator import Conditions, simulate
from cospipe.ir.soc import Soc
from cospipe.pictures import milliseconds, size
from cospipe.prediction import Prediction
from cospipe.report import tables
from cospipe.report.front_chart import front_chart
from cospipe.report.kernels import kernels_of
from cospipe.report.layer_chart import layer_chart
from cospipe.report.markup import bullets, chart, escaped, section
from cospipe.report.network_chart import network_chart
from cospipe.report.roofline_chart import roofline_chart
from cospipe.report.time_chart import time_chart

JITTER = 0.1
"""Coefficient of variation of the service times in some simulations."""
LOAD = 0.9
"""Rate of arriving frames, as a share of what the plan can do, in the last simulation."""
FRAMES = 1000


def page(exploration: Exploration, prediction: Prediction, soc: Soc) -> str:
    """Return the whole page as text; it loads nothing from elsewhere."""
    plan = exploration.chosen
    kernels = kernels_of(prediction, plan)
    runs = _simulations(plan)
    charts = {
        "network": network_chart(kernels, plan),
        "time": time_chart(plan, next(iter(runs.values()))),
        "front": front_chart(exploration),
        "layers": layer_chart(kernels, plan),
        "roofline": roofline_chart(kernels, soc),
    }
    sections = [
        section("plan", "The plan", tables.figures(plan) + tables.stages(plan)),
        section("reasons", "Why this plan", bullets(exploration.reasons)),
        section("network", "The network and its cuts", _place(charts, "network", "graph of the network"), _NETWORK),
        section(
            "time",
            "Stages over time",
            _place(charts, "time", "Gantt chart of the stages") + tables.simulated(plan, runs),
            _TIME,
        ),
        section("comparison", "Compared with", tables.comparison(exploration)),
        section(
            "front",
            "Period, latency, energy",
            _place(charts, "front", "scatter plot of period and latency of all plans") + tables.front(exploration),
            _FRONT,
        ),
        section(
            "layers", "Every kernel on every cluster", _place(charts, "layers", "bars of predicted times"), _LAYERS
        ),
        section("roofline", "Rooflines", _place(charts, "roofline", "rooflines of the clusters"), _ROOFLINE),
        section("sources", "Where the figures come from", tables.sources(prediction, soc)),
    ]
    return _document(exploration, soc, "\n".join(sections), charts)


_NETWORK = (
    "Kernels from left to right in the order they run; the area of a dot is the time on the cores of its stage. Lines "
    "are tensors; those that cross a cut are handed over to the next stage. Drag to zoom, double-click to go back."
)
_TIME = (
    "The first frames in the simulator, with their numbers. A bar is hand-over and computing of one frame; gaps are "
    "waiting. The simulator slows stages down only while several clusters are busy, the closed form always."
)
_FRONT = "Plans that no other beats in period, latency and energy at once, and what they are compared with."
_LAYERS = "All cores of each cluster are shown; a click on a name in the legend shows or hides fewer cores."
_ROOFLINE = (
    "Predicted speed of kernels with a matrix product on all cores of each cluster; dotted is the roof of one core. "
    "A point above the roof does fewer operations than are counted (Winograd's method) or finds its input in a cache."
)


def _simulations(plan: PipelinePlan) -> dict[str, Simulation]:
    """Return simulated runs under the words that describe them, the plainest first."""
    varying = f"times varying by {JITTER:.0%}"
    conditions = {
        "simulated, frames back to back, all alike": Conditions(FRAMES),
        f"simulated, frames back to back, {varying}": Conditions(FRAMES, jitter=JITTER),
        f"simulated, frames back to back, {varying}, queues of two frames": Conditions(FRAMES, 2, jitter=JITTER),
        f"simulated, frames arriving at {LOAD:.0%} of the closed form's rate, {varying}": Conditions(
            FRAMES, jitter=JITTER, interval_us=plan.period_us / LOAD or None
        ),
    }
    return {words: simulate(plan, chosen) for words, chosen in conditions.items()}


def _place(charts: dict[str, go.Figure], key: str, description: str) -> str:
    return chart(key, description, (charts[key].layout.meta or {}).get("min_width", 0))


def limits_text(limits: Limits) -> str:
    """Return the limits in words, empty without any."""
    parts = []
    if limits.latency_us is not None:
        parts.append(f"latency at most {milliseconds(limits.latency_us)}")
    if limits.power_mw is not None:
        parts.append(f"power at most {limits.power_mw / 1e3:g} W")
    if limits.memory_bytes is not None:
        parts.append(f"memory at most {size(limits.memory_bytes)}")
    return ", ".join(parts)


def _document(exploration: Exploration, soc: Soc, body: str, charts: dict[str, go.Figure]) -> str:
    title = escaped(f"{exploration.model} on {soc.name}")
    wanted = f"best {exploration.objective}" + (f", {text}" if (text := limits_text(exploration.limits)) else "")
    data = {key: json.loads(figure.to_json()) for key, figure in charts.items()}
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<style>{_asset('page.css')}</style></head><body>",
            f"<header><div><h1>{title}</h1><p>{escaped(soc.title)}; {escaped(wanted)}; all figures predicted</p></div>",
            '<button id="theme" type="button">dark or light</button></header>',
            f"<main><noscript>The charts need JavaScript; the tables do not.</noscript>{body}</main>",
            f'<script type="application/json" id="charts">{_inline(data)}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{_asset('page.js')}</script></body></html>",
        ]
    )


def _asset(name: str) -> str:
    return (resources.files("cospipe.report") / name).read_text(encoding="utf-8")


def _inline(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
