"""``cospipe explore``: search every kind of plan for a chip, compare, and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cospipe.console import JsonOption, err, out, print_json, show_progress
from cospipe.input_options import parse_input_shapes, parse_input_values
from cospipe.ir.errors import UsageError, nearest
from cospipe.ir.latency import LatencySource
from cospipe.ir.plan import OBJECTIVES
from cospipe.options import (
    CoresOption,
    MaxLatencyOption,
    MaxMemoryOption,
    MaxPowerOption,
    MaxStagesOption,
    ModelArgument,
    ObjectiveOption,
    ProfileOption,
    ShapeOption,
    SocOption,
    SourceOption,
    ValueOption,
    parse_limits,
)


def explore(
    model: ModelArgument,
    soc: SocOption = "host",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="write the report here: index.html, exploration.json"),
    ] = None,
    objective: ObjectiveOption = "throughput",
    max_latency: MaxLatencyOption = "",
    max_power: MaxPowerOption = "",
    max_memory: MaxMemoryOption = "",
    cores: CoresOption = "",
    max_stages: MaxStagesOption = 0,
    source: SourceOption = "analytic",
    profile_file: ProfileOption = None,
    input_shape: ShapeOption = None,
    input_value: ValueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the best plan of every kind for a chip, compare them, and say why one is chosen; nothing is compiled.

    Examples
    --------
        cospipe explore torchvision.models:googlenet --soc rk3588 -o build/report

        cospipe explore torchvision.models:resnet18 --soc hikey970 --max-latency 150ms --max-power 5W

        cospipe explore torchvision.models:mobilenet_v2 --soc rk3399 --objective energy --json > front.json

        cospipe explore net.pt2 --soc host --source measured --profile host.json --cores big:2 -o report
    """
    shapes, values = parse_input_shapes(input_shape), parse_input_values(input_value)
    limits = parse_limits(max_latency, max_power, max_memory)
    _check_choice("--objective", objective, OBJECTIVES)
    _check_choice("--source", source, [known.value for known in LatencySource])
    with show_progress() as progress:
        progress("Loading the compiler")
        from cospipe.exploration import explore as run_explore
        from cospipe.ir.soc import load_soc
        from cospipe.models import load_model
        from cospipe.report.write import check_can_write, write_report

        if output is not None:
            check_can_write(output)
        exploration, prediction = run_explore(
            *load_model(model, shapes, values),
            soc=soc,
            objective=objective,
            limits=limits,
            cores=cores,
            max_stages=max_stages,
            source=source,
            profile=profile_file or "",
            name=model,
            progress=progress,
        )
        if output is not None:
            progress("Writing the report")
            page = write_report(output, exploration, prediction, load_soc(soc))
    from cospipe.exploration_pictures import exploration_picture, exploration_values

    if as_json:
        errors = {"source": prediction.source, "held_out_error": prediction.held_out_error()}
        print_json({**exploration_values(exploration), **errors})
    else:
        out.print(exploration_picture(exploration, out.width))
    if output is not None:
        err.print(f"Report: {page}", style="bold", highlight=False, markup=False, soft_wrap=True)


def _check_choice(option: str, value: str, known: tuple[str, ...] | list[str]) -> None:
    if value not in known:
        raise UsageError(f"There is no {option} {value!r}. {nearest(value, known)}")
