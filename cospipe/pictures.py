"""Plans, predictions and runs as pictures and tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cospipe.ir.manifest import Manifest
from cospipe.ir.plan import PipelinePlan, StagePlan
from cospipe.ir.soc import Accelerator, Soc

_COLOURS = ("cyan", "magenta", "green", "yellow")
_STAGE_WIDTH = 30
_MOST_NODES_NAMED = 8
_CHIP_KEYS = ("hand_over_us", "hand_over_gb_per_s", "contention", "spread_cost", "idle_power_mw")


def milliseconds(time_us: float | None) -> str:
    """Return a time as ``12.3 ms``."""
    return "-" if time_us is None else f"{time_us / 1e3:.{1 if time_us >= 1e4 else 2}f} ms"


def size(size_bytes: float) -> str:
    """Return a size as ``1.2 MB``."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def plan_picture(plan: PipelinePlan, width: int, measured: Mapping[str, Any] | None = None) -> RenderableType:
    """Draw the stages of a plan from left to right, or below each other where they do not fit.

    Parameters
    ----------
    plan : PipelinePlan
        What to draw.
    width : int
        Columns of the terminal.
    measured : mapping, optional
        ``RunStatistics.summary()`` of a run, to be shown beside the predictions.
    """
    busy = {stage["name"]: stage["median_us"] for stage in measured["stages"]} if measured else {}
    colours = _cluster_colours(plan)
    panels = [_stage_panel(stage, plan, busy.get(stage.name), colours) for stage in plan.stages]
    arrows = ["", *(f"{size(stage.hand_over_bytes)}" for stage in plan.stages[1:])]
    if len(panels) * (_STAGE_WIDTH + 9) + 16 <= width:
        drawing: RenderableType = _side_by_side(panels, arrows)
    else:
        pairs = zip(arrows, panels, strict=True)
        drawing = Group(*(Group(Text(f"  ▼ {arrow or 'frames'}"), panel) for arrow, panel in pairs))
    return Group(drawing, _headline(plan, measured))


def _cluster_colours(plan: PipelinePlan) -> dict[str, str]:
    clusters = dict.fromkeys(cluster for stage in plan.stages for cluster in stage.clusters)
    return {cluster: _COLOURS[i % len(_COLOURS)] for i, cluster in enumerate(clusters)}


def _side_by_side(panels: list[Panel], arrows: list[str]) -> Table:
    grid = Table.grid(padding=(0, 0))
    cells: list[RenderableType] = []
    for arrow, panel in zip(arrows, panels, strict=True):
        cells += [Text(f"\n\n {arrow or 'frames'}\n ──▶ ", justify="center"), panel]
        grid.add_column()
        grid.add_column()
    grid.add_column()
    grid.add_row(*cells, Text("\n\n results\n ──▶", justify="center"))
    return grid


def _stage_panel(stage: StagePlan, plan: PipelinePlan, measured_us: float | None, colours: dict[str, str]) -> Panel:
    colour = colours[stage.clusters[0]]
    share = plan.contention * stage.period_us / plan.period_us
    lines = Text()
    lines.append(f"{len(stage.nodes)} operations\n", style="dim")
    lines.append(f"{stage.nodes[0]} … {stage.nodes[-1]}\n"[: _STAGE_WIDTH - 3] + "\n", style="dim")
    lines.append("█" * max(1, round(share * (_STAGE_WIDTH - 6))) + "\n", style=colour)
    lines.append(f"predicted {milliseconds(stage.time_us):>10}")
    if measured_us is not None:
        lines.append(f"\nmeasured  {milliseconds(measured_us):>10}", style="bold")
    cpus = "cpu " + ",".join(map(str, stage.cpu_ids))
    title = f"{stage.name} on [bold]{stage.text}[/bold]"
    return Panel(lines, title=title, subtitle=cpus, border_style=colour, width=_STAGE_WIDTH)


def _headline(plan: PipelinePlan, measured: Mapping[str, Any] | None) -> Text:
    text = Text()
    text.append(f"{plan.soc}, best {plan.objective}: ", style="bold")
    text.append(
        f"a result every {milliseconds(plan.period_us)} ({plan.frames_per_second:.1f} frames/s), "
        f"{milliseconds(plan.latency_us)} from input to result (predicted)"
    )
    if measured and measured["period_us"] is not None:
        text.append(
            f"\nmeasured here: a result every {milliseconds(measured['period_us'])} "
            f"({measured['frames_per_second']:.1f} frames/s), latency {milliseconds(measured['latency_median_us'])}",
            style="bold",
        )
    if plan.best_single_stage is not None:
        configuration, time_us = plan.best_single_stage
        text.append(
            f"\nwithout a pipeline: a result every {milliseconds(time_us)} on {configuration}, "
            f"{time_us / plan.period_us:.2f} times as long"
        )
    if plan.search is not None:
        text.append(
            f"\noptimal over {plan.search.states:,} states ({plan.search.transitions:,} transitions, "
            f"{plan.search.seconds:.2f} s): {plan.search.limited_by}",
            style="dim",
        )
    return text


def plan_text(plan: PipelinePlan, width: int = 100) -> str:
    """Return the picture of a plan as plain text."""
    console = Console(file=StringIO(), width=width, no_color=True)
    console.print(plan_picture(plan, width))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def generic_text(manifest: Manifest) -> str:
    """Return a sentence on the nodes without a kernel of their own, the slowest first; empty when there are none."""
    nodes = sorted(manifest.generic_nodes, key=lambda node: -node.predicted_us)
    if not nodes:
        return ""
    named = ", ".join(map(str, nodes[:_MOST_NODES_NAMED]))
    others = f" and {len(nodes) - _MOST_NODES_NAMED} more" if len(nodes) > _MOST_NODES_NAMED else ""
    return f"Generic schedule (no fast kernel): {named}{others}: {manifest.generic_share:.0%} of the predicted time.\n"


def prediction_table(layers: list[dict[str, Any]], totals: Mapping[str, float], title: str) -> Table:
    """Return the per-layer table of ``cospipe predict``; the fastest configuration of a layer is bold."""
    table = Table(title=title, header_style="bold")
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("MMAC", justify="right", no_wrap=True)
    for configuration in totals:
        table.add_column(f"{configuration}\nµs", justify="right", no_wrap=True, min_width=7)
    for row in layers:
        if row["fused_into"] is None and any(row["latency_us"].values()):
            table.add_row(row["node"], row["kind"], f"{row['macs'] / 1e6:.1f}", *_times(row["latency_us"]))
    table.add_section()
    total_macs = sum(row["macs"] for row in layers)
    table.add_row("whole network", "", f"{total_macs / 1e6:.0f}", *_times(dict(totals)), style="bold")
    return table


def _times(latency_us: Mapping[str, float]) -> list[str]:
    best = min(latency_us.values())
    return [f"[bold]{time:,.0f}[/bold]" if time == best else f"{time:,.0f}" for time in latency_us.values()]


def socs_table(socs: list[Soc]) -> Table:
    """Return the table of ``cospipe socs``."""
    table = Table(header_style="bold")
    table.add_column("name", no_wrap=True)
    for column in ("chip and board", "clusters", "architecture", "estimated values"):
        table.add_column(column)
    for soc in socs:
        clusters = " + ".join(f"{c.cores}x {c.core_type} {c.max_clock_mhz / 1e3:.2f} GHz" for c in soc.clusters)
        table.add_row(soc.name, soc.title, clusters, soc.architecture, str(len(soc.estimated)))
    return table


def soc_table(soc: Soc) -> Group:
    """Return everything known of one SoC; ``~`` marks values nobody measured."""
    table = Table(title=f"{soc.name}: {soc.title} ({soc.architecture})", header_style="bold")
    table.add_column("")
    for cluster in soc.clusters:
        table.add_column(cluster.name, justify="right")
    for field in type(soc.clusters[0]).model_fields:
        if field != "name":
            table.add_row(field, *(_value(soc, c.name, field, getattr(c, field)) for c in soc.clusters))
    chip = [f"{key}: {_mark(soc, key)}{_shown(getattr(soc, key))}" for key in _CHIP_KEYS]
    others = [_accelerator_text(soc, accelerator) for accelerator in soc.accelerators]
    sources = [f"source: {source}" for source in soc.sources]
    return Group(table, *chip, *others, *sources, "~ estimated, not measured")


def _value(soc: Soc, cluster: str, field: str, value: Any) -> str:
    return _mark(soc, f"clusters.{cluster}.{field}") + _shown(value)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "-" if isinstance(value, tuple) else str("-" if value is None else value)


def _accelerator_text(soc: Soc, accelerator: Accelerator) -> str:
    values = accelerator.model_dump(exclude={"name", "kind"}, exclude_none=True)
    if accelerator.gflops is None:
        return f"{accelerator.kind}: {accelerator.name} (its speed is not known, so no plan uses it)"
    shown = [f"{key} {_mark(soc, f'accelerators.{accelerator.kind}.{key}')}{value}" for key, value in values.items()]
    return f"{accelerator.kind}: {accelerator.name}, {', '.join(shown)}"


def _mark(soc: Soc, key: str) -> str:
    is_default = key in _CHIP_KEYS and key not in soc.model_fields_set and getattr(soc, key) is not None
    return "~" if key in soc.estimated or is_default else ""


def run_picture(manifest: Manifest, statistics: Mapping[str, Any], width: int) -> RenderableType:
    """Draw a run: the plan with measured times, where the stages really ran, and at which clocks."""
    notes = Text()
    for stage in statistics["stages"]:
        if stage["placement"] != "plan":
            cores = ",".join(map(str, stage["cpu_ids"]))
            how = "shares" if stage["placement"] == "shared" else "ran on"
            notes.append(f"\n{stage['name']} {how} cpu {cores} of this machine, not the plan's cores", style="yellow")
    for cpu, clock in statistics["clocks_mhz"].items():
        most = f" of {clock['nominal']:.0f}" if clock["nominal"] else ""
        seen = f"{clock['median']:.0f}{most} MHz ({clock['lowest']:.0f} to {clock['highest']:.0f})"
        notes.append(f"\ncpu {cpu} ran at {seen}", style="dim")
    if statistics["interrupted_by"]:
        ended = f"\n{statistics['interrupted_by']} ended the run after {statistics['frames']} frames"
        notes.append(ended, style="yellow")
    return Group(plan_picture(manifest.plan, width, statistics), notes)
