"""What tuning adds: cospipe's kernels, MetaSchedule alone, both together, and ONNX Runtime, on one core.

MetaSchedule alone is what a user of TVM gets: its default Relax passes, weights bound as constants, and as many trials
on all kernels of the network. Together, it gets as many trials on cospipe's kernels; each task keeps the kernel that
was faster inside the network. All four run by turns in one process on the same core. Fields of a row:

* ``trials``: kernels that were built and measured; 0 where nothing is tuned;
* ``tuned_tasks``, ``tasks``: tasks that use a tuned kernel, and all that could (only for both together);
* ``median_ms``, ``min_ms``: milliseconds of a run of batch 1 in FP32, over the rounds;
* ``relative_error``: largest difference from eager PyTorch divided by the largest magnitude.

With 200 trials a network took 15 to 25 minutes on two cores that were not idle.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import tvm
import typer
from environment import JsonFile, Row, print_rows, write_rows
from models import load_network, model_specs
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from cospipe.backends.profiling.networks import PreparedNetwork, prepare_network
from cospipe.backends.profiling.pinned_thread import run_on_cores
from cospipe.backends.profiling.rounds import WARM_UP_ROUNDS, without_garbage_collection
from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.importer import import_stage
from cospipe.backends.tvm.kernel_clock import KernelClock, build_clock
from cospipe.backends.tvm.lower import LoweredStage, lower_stage
from cospipe.backends.tvm.sessions import LocalSession
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.backends.tvm.timed_stage import TimedStage
from cospipe.backends.tvm.tuning.candidates import candidate_builder, cores_here, local_runner
from cospipe.backends.tvm.tuning.comparing import Network
from cospipe.backends.tvm.tuning.records import open_records
from cospipe.backends.tvm.tuning.search import cost_model, llvm_space, trials_at_once, without_intrinsics
from cospipe.backends.tvm.tuning.tune import TuningOptions, TuningResult, tune
from cospipe.ir.soc import load_soc

OURS, ALONE, TOGETHER, ONNX_RUNTIME = "cospipe", "MetaSchedule", "cospipe + MetaSchedule", "ONNX Runtime"
_PACKAGES = ("onnxruntime", "onnxscript", "torchvision", "xgboost-cpu")
_NOISE = 1.02
"""Medians that differ by less are equal."""
_BUILD_WORKERS, _TIMEOUT_S, _NUMBER = 2, 60.0, 10

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Contender:
    """One way to run a network; ``run`` returns microseconds, ``outputs`` what it computes."""

    name: str
    run: Callable[[], float]
    outputs: Callable[[], Sequence[np.ndarray]]


@app.command()
def main(
    json: JsonFile = "",
    models: Annotated[list[str] | None, typer.Option(help="torchvision names or package.module:factory")] = None,
    trials: Annotated[int, typer.Option(min=0, help="kernels to build and measure, each way")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="timed runs of each way")] = 50,
    records: Annotated[str, typer.Option(help="directory for tuning records; what is there counts")] = "",
) -> None:
    """Measure what tuning adds."""
    rows: list[Row] = []
    for spec in model_specs(models or ["mobilenet_v2", "resnet18"]):
        with tempfile.TemporaryDirectory(prefix="cospipe-tune-") as scratch:
            rows += measure(spec, trials, rounds, Path(records or scratch) / spec.rpartition(":")[2], Path(scratch))
    slower = networks_slower_together(rows)
    if json:
        write_rows(
            rows, json, ("onnxruntime", "onnxscript", "torchvision", "xgboost-cpu"), {"slower": ", ".join(slower)}
        )
    if json != "-":
        print_rows("One core, batch 1, FP32", rows)
        print(f"Together slower than one of both alone: {', '.join(slower) or 'never'}.")


def networks_slower_together(rows: Sequence[Row]) -> list[str]:
    """Return the networks that are slower with both together than with cospipe's kernels or MetaSchedule alone."""
    times = {(row["network"], row["way"]): float(row["median_ms"] or 0.0) for row in rows}
    networks = dict.fromkeys(str(row["network"]) for row in rows)
    return [
        network
        for network in networks
        if times[network, TOGETHER] > _NOISE * min(times[network, OURS], times[network, ALONE])
    ]


def measure(spec: str, trials: int, rounds: int, records: Path, scratch: Path) -> list[Row]:
    """Tune a network both ways and measure all four."""
    loaded = load_network(spec, (), keep_weights=False)
    network = prepare_network(spec, loaded.module, loaded.inputs)
    soc = load_soc("host")
    target, core = (make(soc.clusters[0], 1, soc.architecture) for make in (core_target, kernel_core))
    imported = import_stage(network.graph_module, network.inputs)
    stored = dict(network.graph_module.named_parameters(remove_duplicate=False))
    weights = {name: stored[name].detach().numpy() for name in imported.weight_names}
    options = TuningOptions(trials=trials, number=_NUMBER, parallel=_BUILD_WORKERS, timeout_s=_TIMEOUT_S)
    tuning = tune(Network(imported, weights, target, core), records / "together", options)
    executable = _metaschedule_alone(imported.module, weights, target, core, trials, records / "alone")
    alone = scratch / "alone.so"
    executable.export_library(str(alone))
    libraries = scratch / "ours.so", scratch / "together.so"
    lowered = [
        lower_stage(network.graph_module, network.inputs, target, core, library, records=kernels)
        for library, kernels in zip(libraries, (None, open_records(records / "together", target)), strict=True)
    ]
    clock = build_clock(scratch, soc.architecture)
    onnx_file = _exported(network, scratch)

    def by_turns() -> list[Row]:
        session = LocalSession()
        kernel_clock = KernelClock(session, clock)
        contenders = [
            _stage(OURS, session, kernel_clock, libraries[0], lowered[0], network, stored),
            _machine(ALONE, alone, network),
            _stage(TOGETHER, session, kernel_clock, libraries[1], lowered[1], network, stored),
            _onnx_runtime(onnx_file, network),
        ]
        return _rows(spec, contenders, rounds, trials, tuning, network)

    return run_on_cores(cores_here(1), by_turns)


def _rows(
    spec: str, contenders: Sequence[Contender], rounds: int, trials: int, tuning: TuningResult, network: PreparedNetwork
) -> list[Row]:
    errors = [
        max(relative_error(ours, theirs) for ours, theirs in zip(contender.outputs(), network.expected, strict=True))
        for contender in contenders
    ]
    for contender in list(contenders) * WARM_UP_ROUNDS:
        contender.run()
    with without_garbage_collection():
        times_us = np.array([[contender.run() for contender in contenders] for _ in range(rounds)])
    kept = sum(result.is_tuned_kept for result in tuning.results)
    return [
        {
            "network": spec,
            "way": contender.name,
            "trials": trials if contender.name in (ALONE, TOGETHER) else 0,
            "tuned_tasks": kept if contender.name == TOGETHER else None,
            "tasks": len(tuning.results) if contender.name == TOGETHER else None,
            "median_ms": float(np.median(times_us[:, place])) / 1e3,
            "min_ms": float(times_us[:, place].min()) / 1e3,
            "relative_error": errors[place],
        }
        for place, contender in enumerate(contenders)
    ]


def _stage(
    name: str,
    session: LocalSession,
    clock: KernelClock,
    library: Path,
    lowered: LoweredStage,
    network: PreparedNetwork,
    stored: dict[str, torch.Tensor],
) -> Contender:
    stage = TimedStage(session, clock, library, lowered, network.inputs, stored)
    return Contender(name, stage.run_whole, stage.outputs)


def _metaschedule_alone(
    module: tvm.IRModule, weights: dict[str, np.ndarray], target: Any, core: Any, trials: int, folder: Path
) -> Any:
    """Return the network as TVM's own passes compile it, with the best of so many schedules."""
    main = module["main"]
    names = [parameter.name for parameter in main.params[int(main.attrs["num_input"]) :]]
    bound = relax.transform.BindParams("main", dict(zip(names, map(tvm.runtime.tensor, weights.values()), strict=True)))
    passes = [bound, relax.transform.DecomposeOpsForInference(), relax.get_pipeline("zero")]
    folder.mkdir(parents=True, exist_ok=True)
    with target:
        fused = tvm.transform.Sequential(passes)(module)
    if trials:
        with without_intrinsics():
            tasks = len(ms.relax_integration.extract_tasks(fused, target, {}))
            ms.relax_integration.tune_relax(
                fused,
                {},
                target,
                str(folder),
                trials,
                num_trials_per_iter=trials_at_once(trials, tasks),
                builder=candidate_builder(core, _BUILD_WORKERS, _TIMEOUT_S),
                runner=local_runner(cores_here(1), _NUMBER, 1, 0, _TIMEOUT_S),
                cost_model=cost_model(),
                space=llvm_space(),
            )
        with target:
            fused = relax.transform.MetaScheduleApplyDatabase(str(folder))(fused)
    return tvm.compile(fused, target=target)


def _machine(name: str, library: Path, network: PreparedNetwork) -> Contender:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    machine.set_input("main", *(tvm.runtime.tensor(tensor.numpy()) for tensor in network.inputs))
    invoke = machine.module["invoke_stateful"]

    def outputs() -> list[np.ndarray]:
        invoke("main")
        results = machine.get_outputs("main")
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]

    return Contender(name, lambda: _timed(lambda: invoke("main")), outputs)


def _exported(network: PreparedNetwork, folder: Path) -> Path:
    file = folder / "network.onnx"
    torch.onnx.export(network.graph_module, network.inputs, str(file), dynamo=True, verbose=False)
    return file


def _onnx_runtime(file: Path, network: PreparedNetwork) -> Contender:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    frame = dict(zip(names, (tensor.numpy() for tensor in network.inputs), strict=True))
    return Contender(ONNX_RUNTIME, lambda: _timed(lambda: session.run(None, frame)), lambda: session.run(None, frame))


def _timed(run: Callable[[], object]) -> float:
    started_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started_ns) / 1e3


if __name__ == "__main__":
    app()
