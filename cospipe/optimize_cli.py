"""``cospipe optimize`` and ``cospipe predict``: from a model to a bundle, and to predicted times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cospipe.board_options import board_text, board_values, runner_options
from cospipe.console import JsonOption, out, print_json, show_progress
from cospipe.emission import check_form, emit_stages
from cospipe.input_options import parse_input_shapes, parse_input_values
from cospipe.ir.errors import UsageError
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


def optimize(
    model: ModelArgument,
    soc: SocOption = "host",
    objective: ObjectiveOption = "throughput",
    input_shape: ShapeOption = None,
    input_value: ValueOption = None,
    target: Annotated[str, typer.Option(help="auto (the SoC), host or aarch64")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="directory or .zip to write; build/MODEL by default")
    ] = None,
    cores: CoresOption = "",
    max_stages: MaxStagesOption = 0,
    plans: Annotated[
        str, typer.Option(help="all kinds that can run, or pipeline: each stage once, on one cluster")
    ] = "all",
    max_latency: MaxLatencyOption = "",
    max_power: MaxPowerOption = "",
    max_memory: MaxMemoryOption = "",
    source: SourceOption = "analytic",
    profile_file: ProfileOption = None,
    passes: Annotated[str, typer.Option(help="further passes to run first, in text form")] = "",
    adapter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="an adapter to fold into the weights before compiling")
    ] = None,
    winograd: Annotated[
        bool, typer.Option("--winograd/--no-winograd", help="allow Winograd's method for 3x3 convolutions")
    ] = True,
    runner: Annotated[
        bool,
        typer.Option("--runner", help="make the bundle complete for a bare board: add cospipe-run and its libraries"),
    ] = False,
    sysroot: Annotated[
        Path | None,
        typer.Option("--sysroot", metavar="DIR", help="with --runner: a copy of the board's root file system to check"),
    ] = None,
    glibc: Annotated[
        str | None, typer.Option("--glibc", metavar="2.28", help="with --runner: oldest C library it must run with")
    ] = None,
    cross_compiler: Annotated[
        str | None, typer.Option("--cross-compiler", metavar="CXX", help="with --runner: a g++ to use instead of zig")
    ] = None,
    tuning_records: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="use the kernels that tvmc tune found to be faster than cospipe's own"),
    ] = None,
    emit: Annotated[
        str, typer.Option(help="bundle, or tvmc: an ONNX file a stage and a script of tvmc commands, nothing compiled")
    ] = "bundle",
    as_json: JsonOption = False,
) -> None:
    """Compile a model into a pipeline and write it as a bundle.

    Examples
    --------
        cospipe optimize torchvision.models:squeezenet1_1 --soc hikey970 -o build/squeezenet

        cospipe optimize mymodels.nets:make_net --soc myboard.toml --input-shape 1,3,96,96 -o net.zip

        cospipe optimize net.pt2 --soc rk3588 --objective latency --cores big:4+little:2

        cospipe optimize net.onnx --soc rk3588 --input-shape images:1,3,320,320 --input-value threshold=0.5

        cospipe optimize net.pt2 --soc rk3399 --max-latency 150ms --max-power 6W --plans pipeline

        cospipe optimize net.pt2 --soc host --source measured --profile host.json

        cospipe optimize torchvision.models:mobilenet_v2 --soc rk3588 --target aarch64 --runner -o build/board

        cospipe optimize mymodels.nets:make_net --adapter pets.safetensors -o build/pets

        cospipe optimize mymodels.nets:make_net --passes 'insert-adapters{n=1000},merge-adapters{at=load}' -o build/room

        cospipe optimize torchvision.models:googlenet --soc hikey970 --emit tvmc -o build/stages
    """
    check_form(emit)
    if emit == "tvmc" and tuning_records:
        raise UsageError("--emit tvmc compiles nothing; add --tuning-records to the commands of its build.sh instead.")
    shapes, values = parse_input_shapes(input_shape), parse_input_values(input_value)
    limits = parse_limits(max_latency, max_power, max_memory)
    board = runner_options(runner, sysroot, glibc, cross_compiler)
    output = output or Path("build") / Path(model.rpartition(":")[2]).stem
    with show_progress() as progress:
        progress("Loading the compiler")
        from cospipe.front_door import optimize as run_optimize
        from cospipe.ir.eager_adapters import load_adapter
        from cospipe.models import load_model

        network, inputs = load_model(model, shapes, values)
        if adapter is not None:
            load_adapter(as_module(network, model), adapter)
        options: dict[str, Any] = {
            "soc": soc,
            "objective": objective,
            "target": target,
            "passes": passes,
            "cores": cores,
            "max_stages": max_stages,
            "plans": plans,
            "limits": limits,
            "source": source,
            "profile": profile_file or "",
            "winograd": winograd,
            "runner": board,
            "name": model,
            "progress": progress,
        }
        if emit == "tvmc":
            emitted = emit_stages(network, inputs, output, options)
        else:
            records = tuning_records or ""
            result = run_optimize(network, inputs, output=output, tuning_records=records, **options)
    if emit == "tvmc":
        return _show_emitted(emitted, output, as_json)
    if as_json:
        sizes = {"bundle": str(output), "bundle_bytes": result.bundle.total_bytes}
        return print_json(
            {
                **sizes,
                **board_values(result.bundle),
                **generic_values(result.bundle.manifest),
                **plan_values(result.plan),
            }
        )
    from cospipe.pictures import generic_text, plan_picture, size

    out.print(plan_picture(result.plan, out.width))
    if slow := generic_text(result.bundle.manifest):
        out.print(slow, style="yellow", end="", markup=False, highlight=False)
    out.print(f"[bold]{output}[/bold]: {size(result.bundle.total_bytes)} for {result.bundle.manifest.architecture}")
    if complete := board_text(result.bundle):
        out.print(complete, markup=False, highlight=False)


def _show_emitted(pipeline: Any, output: Path, as_json: bool) -> None:
    """Print the plan, and what was written where."""
    if as_json:
        return print_json({"pipeline": str(output), "files": sorted(pipeline.files), **plan_values(pipeline.plan)})
    from cospipe.pictures import plan_picture

    out.print(plan_picture(pipeline.plan, out.width))
    files = ", ".join(stage.onnx for stage in pipeline.stages)
    out.print(f"[bold]{output}[/bold]: {files}; compile and join them with: sh {output}/build.sh", highlight=False)


def predict(
    model: ModelArgument,
    soc: SocOption = "host",
    source: SourceOption = "analytic",
    profile_file: ProfileOption = None,
    input_shape: ShapeOption = None,
    input_value: ValueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the time of every layer on every core configuration of a chip.

    Examples
    --------
        cospipe predict torchvision.models:googlenet --soc rk3588

        cospipe predict torchvision.models:googlenet --soc sd855 --json > googlenet.json

        cospipe predict torchvision.models:googlenet --source regression --profile host.json
    """
    shapes, values = parse_input_shapes(input_shape), parse_input_values(input_value)
    with show_progress() as progress:
        progress("Loading the compiler")
        from cospipe.models import load_model
        from cospipe.prediction import predict as run_predict

        network, inputs = load_model(model, shapes, values)
        prediction = run_predict(network, inputs, soc=soc, source=source, profile=profile_file or "", progress=progress)
    rows = [layer.row() for layer in prediction.layers]
    totals = {configuration: round(time_us, 3) for configuration, time_us in prediction.total_us().items()}
    if as_json:
        described = {"model": model, "soc": prediction.soc, "source": prediction.source, "unit": "microseconds"}
        return print_json({**described, "total_us": totals, "layers": rows})
    from cospipe.pictures import prediction_table

    out.print(prediction_table(rows, totals, f"{model} on {prediction.soc} ({prediction.source})"))


def plan_values(plan: Any) -> dict[str, Any]:
    """Return a plan and the figures that follow from it, ready for JSON."""
    derived = {key: round(getattr(plan, key), 3) for key in ("period_us", "latency_us", "frames_per_second")}
    return {**derived, "plan": plan.model_dump(mode="json")}


def generic_values(manifest: Any) -> dict[str, Any]:
    """Return the nodes without a kernel of their own and their share of the predicted time, ready for JSON."""
    nodes = [node.model_dump(mode="json") for node in manifest.generic_nodes]
    return {"generic_nodes": nodes, "generic_share": round(manifest.generic_share, 4)}


def as_module(network: Any, model: str) -> Any:
    """Return a network that is a module; UsageError for an exported program."""
    from torch import nn

    if isinstance(network, nn.Module):
        return network
    raise UsageError(f"{model} is an exported program; adapters need the factory of the module it came from.")
