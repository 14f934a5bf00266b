"""How fast a network runs on one or two cores of this machine: compiled by cospipe, and in five other runtimes.

All runtimes of a network run alternately in one process on the same cores: one timed run each in every round, in an
order shuffled anew; ``runtimes_timing.py`` says what keeps them from disturbing each other, ``runtimes.py`` which
settings each has. Untrained networks are randomised (``models.py``) so that an error in any layer is seen at the
output. Fields of a row:

* ``median_ms``, ``min_ms``: milliseconds of a run of batch 1 in FP32, over the rounds;
* ``interrupted``: share of these runs in which another program took a core away; near 0 on a quiet machine;
* ``relative_error``: largest difference from eager PyTorch divided by the largest magnitude; a runtime beyond 0.01
  computes something else and gets no times;
* ``peak_mb``, ``baseline_mb``: memory of a process that loads the prepared files and runs the network, and of the same
  process before it imports the runtime (``runtimes_memory.py``);
* ``compile_s``: seconds of ``cospipe.optimize`` with its own check of the result, and of ``torch.compile``; the other
  runtimes convert and optimise when they load;
* ``error``: why there are no figures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, write_rows
from models import InputSpec, model_specs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from runtimes import RUNTIMES
from runtimes_measure import Settings, run_measurement
from runtimes_summary import print_report, summarise

from cospipe.ir.errors import CospipeError, UsageError, nearest, several
from cospipe.ir.soc import load_soc

_LISTS = ("--models", "--runtimes", "--input")
_PACKAGES = ("onnxruntime", "openvino", "ncnn", "pnnx", "onnx", "onnxscript", "torchvision", "transformers")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json: JsonFile = "",
    models: Annotated[
        list[str] | None, typer.Option(help="torchvision names, package.module:factory, five, unseen; any number")
    ] = None,
    runtimes: Annotated[list[str] | None, typer.Option(help=f"any of {', '.join(RUNTIMES)}")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="1x3x299x299, or 1x128:int64 for tokens; one for each input")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads, each on a core of its own")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="timed runs of each runtime; 20 at least for a figure")] = 25,
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="do not randomise; for trained models")] = False,
) -> None:
    """Measure networks on this machine.

    Example: python benchmarks/cpu_latency.py --models mobilenet_v2 resnet50 --threads 2 --json latency.json
    """
    try:
        specs = model_specs(models or ["five"])
        cpu_ids, cores = _cores(threads)
        chosen = _chosen_runtimes(runtimes or RUNTIMES)
        shapes = tuple(InputSpec.parse(text) for text in inputs or ())
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    settings = Settings(shapes, keep_weights, chosen, cpu_ids, cores, rounds)
    rows: list[Row] = []
    try:
        for measured in _measure_all(specs, settings):
            rows += measured
    except KeyboardInterrupt:
        if rows:
            print_report(rows, _title(settings))
        Console(stderr=True).print("Interrupted; no JSON was written.")
        raise typer.Exit(130) from None
    if json:
        write_rows(rows, json, packages=_PACKAGES, summary=summarise(rows))
    if json != "-":
        print_report(rows, _title(settings))


def _chosen_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    if wrong := [f"{name!r}. {nearest(name, RUNTIMES)}" for name in names if name not in RUNTIMES]:
        raise UsageError(several("There are no such runtimes", wrong))
    return tuple(dict.fromkeys(names))


def _cores(threads: int) -> tuple[tuple[int, ...], str]:
    """Return cpu ids of the fastest cluster, one a core, and the same as cospipe's ``cores``."""
    cluster = load_soc("host").clusters[0]
    if threads > cluster.cores:
        raise UsageError(f"{threads} threads want {threads} equal cores; of the fastest here are {cluster.cores}.")
    return cluster.cpu_ids[:threads], f"{cluster.name}:{threads}"


def _measure_all(specs: Sequence[str], settings: Settings) -> Iterator[list[Row]]:
    """Yield the rows of each network; the progress bar redraws only between runs, so that it disturbs none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        for spec in specs:
            name = spec.rpartition(":")[2]
            task = progress.add_task(name, total=settings.steps)

            def show(step: str, task: TaskID = task, name: str = name) -> None:
                progress.update(task, advance=1, description=f"{name}: {step}", refresh=True)

            with tempfile.TemporaryDirectory(prefix="cpu_latency-", ignore_cleanup_errors=True) as folder:
                yield run_measurement(spec, settings, Path(folder), show)
            progress.update(task, completed=settings.steps, description=name, refresh=True)


def _title(settings: Settings) -> str:
    return f"One frame on {len(settings.cpu_ids)} thread(s), {settings.rounds} rounds"


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
