"""How well each kernel of compiled networks uses the cores of this machine.

Every network is compiled as one stage, for one core and for several, and every kernel in it is timed where it runs:
behind the kernel that computes its input, with weights that other layers have driven out of the small caches
(``kernel_timing.py``). Fields of a row, one for each kernel, network and number of threads:

* ``kind``: what sort of kernel it is, and ``layer_kind``: the same in the words of the latency model
  (``kernel_kinds.py``);
* ``macs``: multiply-accumulates as they are usually counted, also for Winograd's kernels those of the direct
  convolution, and ``done_macs``: what is really done of them (``kernel_kinds.py``);
* ``input_bytes``, ``weight_bytes``, ``output_bytes``: sizes of what it reads from other kernels, what it reads from
  weights, and what it writes;
* ``time_us``: shortest time of all runs, and ``one_thread_us``: the same on one core;
* ``gflops``: 2 operations for each of ``macs``, in 1e9 a second; so Winograd's kernels may exceed the peak;
* ``peak_share``: 2 operations for each of ``done_macs``, divided by what these cores reach in registers in that time
  (``core_limits.py``, in the summary);
* ``gb_per_s``: all bytes, each tensor once, divided by the time;
* ``interrupted``: share of the runs of this network in which another program took a core away. A kernel needs only one
  good run of many, but on several cores few are good on a busy machine, and then their figures say little;
* ``efficiency``: time on one core / (threads x time on that many).

The table has one line for each kind: times, operations and bytes are summed; ``peak_share`` and ``efficiency`` are
medians over its kernels, weighted by time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from core_limits import CoreLimits, measure_limits
from efficiency_summary import kernel_rows, kind_rows, limit_values
from environment import JsonFile, Value, print_rows, write_rows
from kernel_timing import Duration, KernelCall, Timing, time_kernels
from latency_fit import fit, measured_host, table_text
from models import FIVE, Network, load_network, model_specs
from rich.console import Console
from rich.progress import Progress

from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.kernel_libraries import CPU_EFFICIENCY
from cospipe.ir.soc import Soc, load_soc

NETWORKS = (*FIVE, "vit_b_16")
_LISTS = ("--networks", "--threads")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json: JsonFile = "",
    networks: Annotated[
        list[str] | None, typer.Option(help="torchvision names, package.module:factory, five, unseen; any number")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="numbers of cores, one thread each; 1 2")] = None,
    runs: Annotated[int, typer.Option(min=1, help="fewest timed runs; the shortest time of a kernel counts")] = 15,
    seconds: Annotated[float, typer.Option(min=0, help="shortest time to go on with each network")] = 3.0,
    kernels: Annotated[bool, typer.Option("--kernels", help="also print every kernel")] = False,
    fits: Annotated[bool, typer.Option("--fit", help="also fit the efficiencies of ir/latency.py")] = False,
) -> None:
    """Time the kernels of networks on this machine.

    Example: python benchmarks/kernel_efficiency.py --networks resnet50 mobilenet_v2 --threads 1 2 --json kernels.json
    """
    host = load_soc("host")
    try:
        specs = model_specs(networks or NETWORKS)
        counts = checked_threads(threads or [1, min(2, host.clusters[0].cores)], host, needs_one=fits)
        limits = [measure_limits(host.clusters[0], host.architecture, count) for count in counts]
        rows = _measure_all(specs, host, limits, Duration(runs, seconds))
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    if json:
        write_rows(rows, json, packages=("torchvision",), summary=_summary(limits, rows))
    if json != "-":
        _show(rows, limits, kernels)
    if fits:
        _show_fit([row for row in rows if row["threads"] == 1], measured_host(host, limits[0]))


def checked_threads(counts: Sequence[int], host: Soc, needs_one: bool) -> list[int]:
    """Return numbers of threads, each once and rising.

    Raises
    ------
    UsageError
        When there are not enough equal cores, or one thread must be measured and is not.
    """
    cores = host.clusters[0].cores
    if max(counts) > cores:
        raise UsageError(f"{max(counts)} threads want {max(counts)} equal cores; of the fastest here are {cores}.")
    if needs_one and 1 not in counts:
        raise UsageError("The latency model is fitted to one thread: add 1 to --threads.")
    return sorted(set(counts))


def _measure_all(
    specs: Sequence[str], host: Soc, limits: Sequence[CoreLimits], duration: Duration
) -> list[dict[str, Value]]:
    rows: list[dict[str, Value]] = []
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(specs) * len(limits))
        for spec in specs:
            network, alone = load_network(spec, (), keep_weights=False), list[KernelCall]()
            for limit in limits:
                progress.update(task, description=f"{spec} on {limit.threads}", refresh=True)
                timing = _timed(network, host, limit.threads, duration)
                rows += kernel_rows(spec.rpartition(":")[2], timing, limit, alone)
                alone = timing.calls if limit.threads == 1 else alone
                progress.update(task, advance=1, refresh=True)
    return rows


def _timed(network: Network, host: Soc, threads: int, duration: Duration) -> Timing:
    with tempfile.TemporaryDirectory(prefix="kernel_efficiency-") as folder:
        return time_kernels(network, host, threads, duration, Path(folder))


def _summary(limits: Sequence[CoreLimits], rows: Sequence[dict[str, Value]]) -> dict[str, Value]:
    measured = {key: value for limit in limits for key, value in limit_values(limit).items()}
    efficiencies = {
        f"threads_{row['threads']}_efficiency_of_{row['kind']}": row["efficiency"]
        for row in kind_rows(rows)
        if row["efficiency"] is not None
    }
    return {**measured, **efficiencies}


def _show(rows: Sequence[dict[str, Value]], limits: Sequence[CoreLimits], kernels: bool) -> None:
    if kernels:
        hidden = ("layer_kind", "done_macs", "input_bytes", "weight_bytes", "output_bytes", "one_thread_us")
        print_rows("Kernels", [{key: row[key] for key in row if key not in hidden} for row in rows])
    print_rows("Kinds of kernels", kind_rows(rows))
    for limit in limits:
        rates = ", ".join(f"{rate:g} GB/s from {level}" for level, rate in limit.gb_per_s.items())
        typer.echo(f"{limit.threads} thread(s) reach {limit.gflops:g} GFLOP/s in registers and read {rates}.")


def _show_fit(rows: Sequence[dict[str, Value]], host: Soc) -> None:
    fitted = fit(rows, host, CPU_EFFICIENCY)
    print_rows("Shares of the peak for the latency model", fitted)
    typer.echo(table_text(fitted))


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
