"""Explorations as tables for a terminal, and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cospipe.ir.exploration import Exploration, Option
from cospipe.ir.plan import PipelinePlan
from cospipe.pictures import milliseconds, plan_picture, size

_MOST_OF_A_FRONT = 12


def exploration_picture(exploration: Exploration, width: int) -> RenderableType:
    """Draw the chosen plan, what it was compared with, the front, and why it was chosen."""
    chosen = Option(name="chosen", plan=exploration.chosen)
    shown = thinned(exploration.front, _MOST_OF_A_FRONT)
    more = f" ({len(shown)} of {len(exploration.front)} plans)" if len(shown) < len(exploration.front) else ""
    compared = {
        "The best plan of every kind": (chosen, *exploration.kinds),
        "What others would do": (chosen, *exploration.baselines),
        f"Pareto front{more}": tuple(shown),
    }
    tables = [_table(title, options, exploration) for title, options in compared.items() if options]
    reasons = Text("\n").join(Text(f"- {reason}") for reason in exploration.reasons)
    return Group(plan_picture(exploration.chosen, width), "", *tables, Text("Why this plan", style="bold"), reasons)


def exploration_values(exploration: Exploration) -> dict[str, Any]:
    """Return an exploration and the figures that follow from its plans, ready for JSON."""
    return {
        "model": exploration.model,
        "soc": exploration.soc,
        "objective": exploration.objective,
        "limits": exploration.limits.model_dump(mode="json"),
        "chosen": _plan_values(exploration.chosen),
        "kinds": [_option_values(option) for option in exploration.kinds],
        "baselines": [_option_values(option) for option in exploration.baselines],
        "front": [_option_values(option) for option in exploration.front],
        "reasons": list(exploration.reasons),
    }


def thinned(options: Sequence[Option], most: int) -> list[Option]:
    """Return at most so many options, evenly taken, first and last included."""
    if len(options) <= most:
        return list(options)
    return [options[round(step * (len(options) - 1) / (most - 1))] for step in range(most)]


def advantage(plan: PipelinePlan, chosen: PipelinePlan, objective: str) -> float | None:
    """Return how well a plan does by the objective: the chosen one's cost divided by its own; 1 is as good.

    None where a figure is not known.
    """
    figure = {"throughput": "period_us", "latency": "latency_us", "energy": "energy_mj"}[objective]
    cost, best = getattr(plan, figure), getattr(chosen, figure)
    return best / cost if cost and best is not None else None


def remarks(option: Option) -> list[str]:
    """Return why a plan cannot be chosen; empty when it could."""
    unable = [f"cannot run: {'; '.join(option.cannot_run)}"] if option.cannot_run else []
    return unable + [f"exceeds {limit}" for limit in option.exceeds]


def _plan_values(plan: PipelinePlan) -> dict[str, Any]:
    figures = {
        "period_us": round(plan.period_us, 3),
        "latency_us": round(plan.latency_us, 3),
        "frames_per_second": round(plan.frames_per_second, 3) if plan.period_us else None,
        "energy_mj": plan.energy_mj,
        "power_mw": plan.power_mw,
        "memory_bytes": plan.memory_bytes,
    }
    return {"kind": plan.kind, **figures, "plan": plan.model_dump(mode="json")}


def _option_values(option: Option) -> dict[str, Any]:
    reasons = {"cannot_run": list(option.cannot_run), "exceeds": list(option.exceeds)}
    return {"name": option.name, **reasons, **_plan_values(option.plan)}


def _table(title: str, options: Sequence[Option], exploration: Exploration) -> Table:
    table = Table(title=title, header_style="bold", title_justify="left", title_style="bold")
    table.add_column("plan", overflow="fold")
    table.add_column("cores", overflow="fold")
    for column in ("frames/s", "period", "latency", "mJ a frame", "power", "memory", exploration.objective):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for option in options:
        style = "bold" if option.name == "chosen" else "dim" if remarks(option) else ""
        table.add_row(*(Text(cell) for cell in _cells(option, exploration)), style=style)
    return table


def _cells(option: Option, exploration: Exploration) -> list[str]:
    plan = option.plan
    better = advantage(plan, exploration.chosen, exploration.objective)
    return [
        option.name,
        " | ".join(stage.text for stage in plan.stages),
        f"{plan.frames_per_second:,.1f}" if plan.period_us else "-",
        milliseconds(plan.period_us),
        milliseconds(plan.latency_us),
        "-" if plan.energy_mj is None else f"{plan.energy_mj:,.3g}",
        "-" if plan.power_mw is None else f"{plan.power_mw / 1e3:,.2f} W",
        "-" if plan.memory_bytes is None else size(plan.memory_bytes),
        "-" if better is None else f"{better:.2f}x",
        "; ".join(remarks(option)),
    ]
