"""Predicted time of networks on ARM cores that nobody has at hand: emulated instructions times llvm-mca's cycles.

Each network is compiled as one stage for some cores of a chip, one warm inference runs under qemu-aarch64 while a
plugin counts how often every piece of code is executed, and llvm-mca says how many cycles each takes on that core
(``backends/emulator/emulated_profile.py``). Fields of a row:

* ``cores``, ``core_type``, ``clock_mhz``: what was compiled for and emulated; predictions are for that clock;
* ``instructions``, ``fma``: millions that all threads execute in the stage's library; an FMA is a vector one of four
  FP32 lanes, a scalar one counts as a quarter;
* ``megacycles``: computing time of all kernels, of the slowest thread where threads share one;
* ``peak_share``: FMAs divided by what these cores could start in that many cycles, at their measured peak;
* ``emulated_ms``: predicted time; each layer takes the longer of computing and of moving its bytes;
* ``memory_bound``: share of that time in layers for which moving the bytes takes longer;
* ``analytic_ms``: the same by the analytic model, which knows layers but no instructions;
* ``seconds``: what the prediction took, compiling included.

There is no board here to compare with. What is not seen: loads that miss the L1 cache but hit another one, which
in-order cores wait for; TLB misses; mispredicted branches; what TVM's own routines do for a kernel (sorting). All of
these make real cores slower. On the Cortex-A53 LLVM's description errs to the other side, see ``inner_loops.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, print_rows, write_rows
from models import load_network, model_specs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cospipe.backends.emulator.cycle_counter import CycleCounter
from cospipe.backends.emulator.emulated_profile import EmulatedRun, counter_for, emulate
from cospipe.backends.emulator.kernel_cycles import NO_CYCLES
from cospipe.backends.profiling.networks import PreparedNetwork, prepare_network
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.describe import describe_graph
from cospipe.ir.errors import CospipeError, several
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc, load_soc

NETWORKS = ("mobilenet_v2", "squeezenet1_1", "resnet18")
_LISTS = ("--models", "--cores")
_FLOP_PER_FMA = 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json: JsonFile = "",
    models: Annotated[
        list[str] | None, typer.Option(help="torchvision names, package.module:factory, five, unseen; any number")
    ] = None,
    soc: Annotated[str, typer.Option(help="a described chip or a TOML file")] = "rk3588",
    cores: Annotated[list[str] | None, typer.Option(help="big:4 little:1; one core of each cluster by default")] = None,
) -> None:
    """Predict networks without a board.

    Example: python benchmarks/emulated_latency.py --models mobilenet_v2 --soc rk3399 --cores big:2 little:4 --json -
    """
    try:
        chip, specs = load_soc(soc), model_specs(models or NETWORKS)
        wanted = list(dict.fromkeys(map(CoreConfiguration.parse, cores or [f"{c.name}:1" for c in chip.clusters])))
        counter = counter_for(chip, wanted)
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    rows, problems = measure_all(specs, chip, wanted, counter)
    if json:
        write_rows(rows, json, packages=("torchvision",), summary={"llvm": ".".join(map(str, counter.tools.version))})
    if rows and json != "-":
        print_rows(f"Emulated for {chip.title}", rows)
    if problems:
        typer.echo(several("Not everything could be predicted", problems), err=True)
        raise typer.Exit(1)


def measure_all(
    specs: Sequence[str], soc: Soc, configurations: Sequence[CoreConfiguration], counter: CycleCounter
) -> tuple[list[Row], list[str]]:
    """Return a row for each network and core configuration, and what went wrong."""
    rows: list[Row] = []
    problems: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(specs) * len(configurations))
        for spec in specs:
            name = spec.rpartition(":")[2]
            progress.update(task, description=name)
            try:
                network = _prepared(name, spec)
                for cores in configurations:
                    progress.update(task, description=f"{name} on {cores}")
                    rows.append(measure(network, soc, cores, counter))
                    progress.advance(task)
            except CospipeError as error:
                problems.append(f"{name}: {error}")
    return rows, problems


def _prepared(name: str, spec: str) -> PreparedNetwork:
    network = load_network(spec, (), keep_weights=False)
    return prepare_network(name, network.module, network.inputs)


def measure(network: PreparedNetwork, soc: Soc, cores: CoreConfiguration, counter: CycleCounter) -> Row:
    """Emulate a network on some cores and return its row."""
    started = time.perf_counter()
    run = emulate(network, soc, cores, counter, lambda step: None)
    seconds = time.perf_counter() - started
    cluster, total = soc.cluster(cores.cluster), sum((run.of_layer(layer) for layer in run.layers), start=NO_CYCLES)
    peak_fma = total.cycles * cluster.flop_per_cycle / _FLOP_PER_FMA * cores.cores
    return {
        "model": network.name,
        "soc": soc.name,
        "cores": str(cores),
        "core_type": cluster.core_type,
        "clock_mhz": cluster.max_clock_mhz,
        "instructions": round(total.instructions / 1e6, 3),
        "fma": round(total.fma / 1e6, 3),
        "megacycles": round(total.cycles / 1e6, 3),
        "peak_share": round(total.fma / peak_fma, 3),
        "emulated_ms": round(run.profile().network_us / 1e3, 3),
        "memory_bound": round(memory_bound_share(run), 3),
        "analytic_ms": round(analytic_ms(network, soc, cores), 3),
        "seconds": round(seconds, 1),
    }


def memory_bound_share(run: EmulatedRun) -> float:
    """Return the share of the predicted time in layers whose bytes take longer to move than to compute with."""
    model, clock_mhz = AnalyticLatencyModel(run.soc), run.soc.cluster(run.configuration.cluster).max_clock_mhz
    times_us = {
        layer: (run.kernel_time(layer).median_us, run.of_layer(layer).cycles / clock_mhz) for layer in run.layers
    }
    bound_us = sum(
        time_us
        for layer, (time_us, computing_us) in times_us.items()
        if model.moving_us(layer.layer, run.configuration) > computing_us
    )
    return bound_us / sum(time_us for time_us, _ in times_us.values())


def analytic_ms(network: PreparedNetwork, soc: Soc, cores: CoreConfiguration) -> float:
    """Return what the analytic model predicts for the network's layers."""
    model = AnalyticLatencyModel(soc)
    layers = describe_graph(network.graph_module.graph).values()
    return sum(model.predict_us(layer, cores) for layer in layers) / 1e3


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
