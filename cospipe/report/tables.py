"""What the report says in words and tables: the plan, what it was compared with, the simulation, the sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cospipe.exploration_pictures import advantage, remarks
from cospipe.ir.exploration import Exploration, Option
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.simulation import Simulation
from cospipe.ir.soc import Soc
from cospipe.pictures import milliseconds, size
from cospipe.prediction import Prediction
from cospipe.report.colours import stage_colour
from cospipe.report.markup import bullets, escaped, table

_HEADER = ("plan", "cores", "frames/s", "period", "latency", "energy a frame", "power", "memory", "", "remark")


def figures(plan: PipelinePlan) -> str:
    """Return the chosen plan's main figures, large."""
    values = [
        ("throughput", f"{plan.frames_per_second:,.1f}", "frames/s"),
        ("period", *milliseconds(plan.period_us).split(" ")),
        ("latency", *milliseconds(plan.latency_us).split(" ")),
    ]
    if plan.energy_mj is not None:
        values.append(("energy", f"{plan.energy_mj:,.3g}", "mJ a frame"))
    if plan.power_mw is not None:
        values.append(("power", f"{plan.power_mw / 1e3:,.2f}", "W"))
    if plan.memory_bytes is not None:
        values.append(("memory", *size(plan.memory_bytes).split(" ")))
    if plan.best_single_stage is not None and plan.period_us:
        cores, time_us = plan.best_single_stage
        values.append((f"frames/s against {cores} alone", f"{time_us / plan.period_us:.2f}x", ""))
    return '<dl class="figures">' + "".join(_figure(*value) for value in values) + "</dl>"


def _figure(name: str, value: str, unit: str) -> str:
    return f"<div><dt>{escaped(name)}</dt><dd><b>{escaped(value)}</b> {escaped(unit)}</dd></div>"


def stages(plan: PipelinePlan) -> str:
    """Return the stages side by side, with arrows for what is handed over."""
    parts = []
    for position, stage in enumerate(plan.stages):
        share = plan.contention * stage.period_us / plan.period_us if plan.period_us else 0.0
        cpus = "cpu " + ",".join(map(str, stage.cpu_ids)) if stage.cpu_ids else ""
        moved = f"{size(stage.hand_over_bytes)}<br>{milliseconds(stage.hand_over_us)}" if position else "frames"
        parts.append(
            f'<li style="--stage:{stage_colour(position)}"><span class="arrow">{moved}</span>'
            f'<div class="stage"><b>{escaped(stage.name)}</b> on <b>{escaped(stage.text)}</b> <i>{cpus}</i>'
            f'<span class="bar"><span style="width:{100 * share:.0f}%"></span></span>'
            f"{len(stage.nodes)} operations, {milliseconds(stage.time_us)}"
            f"<br>{share:.0%} of the period</div></li>"
        )
    return f'<ol class="stages" aria-label="stages of the chosen plan">{"".join(parts)}</ol>'


def comparison(exploration: Exploration) -> str:
    """Return the tables of the best plans of every kind and of the baselines."""
    chosen = Option(name="chosen", plan=exploration.chosen)
    parts = [
        _options("The best plan of every kind", [chosen, *exploration.kinds], exploration),
        _options("What others would do", [chosen, *exploration.baselines], exploration),
    ]
    return "".join(parts)


def front(exploration: Exploration) -> str:
    """Return the plans of the Pareto front as a table that folds away; nothing without any."""
    if not exploration.front:
        return ""
    rows = _options("Plans of the Pareto front, by period", exploration.front, exploration)
    return f"<details><summary>{len(exploration.front)} plans of the front as a table</summary>{rows}</details>"


def _options(caption: str, options: Sequence[Option], exploration: Exploration) -> str:
    header = [title or f"{exploration.objective} against the chosen" for title in _HEADER]
    classes = ["chosen" if i == 0 and o.name == "chosen" else _class(o) for i, o in enumerate(options)]
    return table(caption, header, [_row(option, exploration) for option in options], classes)


def _class(option: Option) -> str:
    return "unable" if remarks(option) else ""


def _row(option: Option, exploration: Exploration) -> list[str]:
    plan = option.plan
    cores = " | ".join(escaped(stage.text) for stage in plan.stages)
    better = advantage(plan, exploration.chosen, exploration.objective)
    return [
        escaped(option.name),
        f"<small>{cores}</small>",
        f"{plan.frames_per_second:,.1f}" if plan.period_us else "-",
        milliseconds(plan.period_us),
        milliseconds(plan.latency_us),
        "-" if plan.energy_mj is None else f"{plan.energy_mj:,.3g} mJ",
        "-" if plan.power_mw is None else f"{plan.power_mw / 1e3:,.2f} W",
        "-" if plan.memory_bytes is None else size(plan.memory_bytes),
        "-" if better is None else f"{better:.2f}x",
        "<br>".join(escaped(remark) for remark in remarks(option)),
    ]


def simulated(plan: PipelinePlan, runs: Mapping[str, Simulation]) -> str:
    """Return a table of the closed form beside simulated runs, and how busy the stages were in the first."""
    rows = [["closed form, no waiting", milliseconds(plan.period_us), milliseconds(plan.latency_us), "-"]]
    rows += [
        [escaped(name), *(milliseconds(t) for t in (run.period_us, run.latency_us(50), run.latency_us(99)))]
        for name, run in runs.items()
    ]
    first = next(iter(runs.values()))
    header = ("", "period", "latency, median", "latency, 99th percentile")
    caption = f"Closed form and simulator ({first.frames:,} frames, queues of one frame where nothing else is said)"
    use = [
        [
            escaped(f"{stage.name} on {planned.text}"),
            _shares([replica.busy for replica in stage.replicas]),
            _shares([replica.blocked for replica in stage.replicas]),
            f"{stage.mean_waiting:.2f}",
        ]
        for stage, planned in zip(first.stages, plan.stages, strict=True)
    ]
    use_header = ("stage", "busy", "waiting for room in the next queue", "frames waiting before it, on average")
    return table(caption, header, rows) + table("How busy each replica is with frames back to back", use_header, use)


def _shares(shares: Sequence[float]) -> str:
    """Return a percentage, or two where replicas differ."""
    least, most = (f"{share:.0%}" for share in (min(shares), max(shares)))
    return least if least == most else f"{least} to {most}"


def sources(prediction: Prediction, soc: Soc) -> str:
    """Return where the figures come from, and how far off they were where somebody checked."""
    rows = [[escaped(cores), f"{error:.1%}"] for cores, error in prediction.held_out_error().items()]
    header = ("cores", "median error of a layer")
    checked = table("Error on layers the model had not seen", header, rows) if rows else ""
    unknown = "" if rows else "<p>No error on held-out layers is known for these predictions.</p>"
    known = f"<h3>{escaped(soc.title)}</h3>{bullets(soc.sources)}"
    guesses = f"<p>Estimated, not measured: {escaped(', '.join(soc.estimated))}.</p>" if soc.estimated else ""
    return f"<p>Times are predicted: {escaped(prediction.source)}.</p>{checked}{unknown}{known}{guesses}"
