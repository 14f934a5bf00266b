"""The closed form of a pipeline's period and latency, the discrete-event simulator, and the same pipeline running.

On this machine each network is compiled, and run; then the closed form and the simulator get

* ``predicted``: the times that the plan was chosen by, which tests the latency model as well;
* ``measured``: the mean time of each replica in that very run, and the jitter seen there. What remains is the error of
  the closed form and of the simulator themselves: queues, jitter, the hand-over between threads. The contention is in
  the measured times already, so it is not counted twice.

On the boards named by ``--socs`` nothing is run; closed form and simulator are compared on predicted times.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, print_rows, write_rows
from models import load_network, model_specs

import cospipe
from cospipe.backends.runtime.frames import synthetic_frames
from cospipe.backends.runtime.statistics import RunStatistics
from cospipe.ir.annotations import plan_of
from cospipe.ir.capture import capture
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.simulator import Conditions, simulate
from cospipe.passes import PassManager, parse_pipeline

MODELS = ["squeezenet1_1", "mobilenet_v2", "resnet18", "googlenet", "efficientnet_b0"]
SOCS = ["hikey970", "rk3588"]
SIMULATED_FRAMES = 1000
WARM_UP_FRAMES = 10


def main(
    json: JsonFile = "",
    models: Annotated[list[str] | None, typer.Option("--models", help="networks, any number")] = None,
    socs: Annotated[list[str] | None, typer.Option("--socs", help="boards to simulate only, any number")] = None,
    frames: Annotated[int, typer.Option(help="frames of a measured run")] = 150,
    queue_depth: Annotated[int, typer.Option(help="frames that may wait before each stage")] = 1,
) -> None:
    """Compare closed form, simulator and measurement.

    Example: python benchmarks/simulator.py --models resnet18 googlenet --json -
    """
    rows = [
        row
        for model in model_specs(models or MODELS)
        for row in (*on_this_machine(model, frames, queue_depth), *on_boards(model, socs or SOCS, queue_depth))
    ]
    if json:
        write_rows(rows, json)
    else:
        print_rows("Closed form, simulator, measurement", rows)


def on_this_machine(model: str, frames: int, queue_depth: int) -> list[Row]:
    """Compile and run one network; compare with predicted and with measured stage times."""
    print(f"{model} on this machine ...", file=sys.stderr)
    network = load_network(model, (), keep_weights=True)
    with tempfile.TemporaryDirectory() as folder:
        made = cospipe.optimize(network.module, network.inputs, soc="host", output=Path(folder) / "bundle")
        with cospipe.PipelineRunner(made.bundle, queue_depth, keep_trace=True) as runner:
            for count in (WARM_UP_FRAMES, frames):
                for _ in runner.run(synthetic_frames(made.bundle.manifest, count)):
                    pass
    as_measured, jitter = with_measured_times(made.plan, runner.statistics)
    measured = runner.statistics.summary()
    return [
        compare(model, "predicted", made.plan, Conditions(SIMULATED_FRAMES, queue_depth), measured),
        compare(model, "measured", as_measured, Conditions(SIMULATED_FRAMES, queue_depth, jitter=jitter), measured),
    ]


def on_boards(model: str, socs: list[str], queue_depth: int) -> list[Row]:
    """Plan one network for boards; compare closed form and simulator."""
    network = load_network(model, (), keep_weights=True)
    rows = []
    for soc in socs:
        print(f"{model} on {soc} ...", file=sys.stderr)
        passes = f"fold-batch-norm,annotate-layers,annotate-latency{{soc={soc}}},partition{{soc={soc}}}"
        plan = plan_of(PassManager(parse_pipeline(passes))(capture(network.module, network.inputs)).graph_module)
        rows.append(compare(model, "predicted", plan, Conditions(SIMULATED_FRAMES, queue_depth), None))
    return rows


def with_measured_times(plan: PipelinePlan, measured: RunStatistics) -> tuple[PipelinePlan, float]:
    """Return a plan with the mean times of a run in place of its predictions, and the jitter.

    The jitter is the coefficient of variation of the service times, on average over all replicas.
    """
    stages, variations = [], []
    for planned, seen in zip(plan.stages, measured.stages, strict=True):
        services = [[work.busy_us for work in replica.work] for replica in seen.replicas]
        variations += [stdev(times_us) / fmean(times_us) for times_us in services if len(times_us) > 1]
        replicas = tuple(
            replica.model_copy(update={"compute_us": fmean(times_us)}) if times_us else replica
            for replica, times_us in zip(planned.replicas, services, strict=True)
        )
        stages.append(planned.model_copy(update={"replicas": replicas, "hand_over_us": 0.0}))
    return plan.model_copy(update={"stages": tuple(stages), "contention": 1.0}), fmean(variations or [0.0])


def compare(model: str, times: str, plan: PipelinePlan, conditions: Conditions, measured: dict[str, Any] | None) -> Row:
    """Return one row; errors are relative to the measurement."""
    simulated = simulate(plan, conditions).summary()
    period_us = measured["period_us"] if measured else None
    return {
        "model": model.rpartition(":")[2],
        "soc": plan.soc,
        "plan": " | ".join(stage.text for stage in plan.stages),
        "times": times,
        "jitter": round(conditions.jitter, 4),
        "contention": round(plan.contention, 4),
        "closed_form_period_us": round(plan.period_us, 1),
        "simulated_period_us": simulated["period_us"],
        "measured_period_us": period_us,
        "closed_form_error": round(plan.period_us / period_us - 1, 4) if period_us else None,
        "simulated_error": round(simulated["period_us"] / period_us - 1, 4) if period_us else None,
        "closed_form_latency_us": round(plan.latency_us, 1),
        "simulated_latency_p50_us": simulated["latency_p50_us"],
        "measured_latency_p50_us": measured["latency_median_us"] if measured else None,
    }


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=repeat_option_names(sys.argv[1:], ("--models", "--socs")))
