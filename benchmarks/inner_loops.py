"""How well cospipe's kernels use the multiply-add units of ARM cores: llvm-mca's cycles for their hot loops.

Each kernel is one layer, compiled for each core type as every stage is. The library is disassembled; of its innermost
loops those with the most multiply-adds are run through llvm-mca, 100 turns each. A multiply-add (FMA) is a vector one
of four FP32 lanes; a scalar one counts as a quarter. Fields of a row:

* ``cycles_per_fma``: predicted cycles of a turn divided by its FMAs, and ``goal``, what it should be at most;
* ``instructions_per_fma``, ``loads_per_fma``: instructions of any kind and loads, a pair of loads being one;
* ``fma_in_loop``, ``instructions_in_loop``, ``stores``; ``spills``: loads and stores on the stack; all in one turn.

Limits: llvm-mca is a model, so every load hits the L1 cache, nothing waits for the TLB or for a store it reads back,
branches are predicted and taken only at the end of the loop, and instructions come in as fast as they are decoded.
LLVM's descriptions are coarse: A72, A73 and A76 share the one of the A57, so their figures differ only by their code.
On in-order cores llvm-mca holds back an instruction that would write its result before an earlier one does, where the
description does not say otherwise. The A53's does not, and its FMA takes 10 cycles, a load 4: each change from FMAs to
loads costs about 10 cycles there, however well the loads are placed. The chip itself is not that strict. A hand-written
loop for a tile of 8 pixels x 2 vectors gets 1.39 at best. How often each loop of a kernel runs is not seen: borders of
an image may have loops of their own, and Winograd's transforms hold a few multiply-adds among many other instructions.
Figures of different LLVM versions need not agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from command_line import repeat_option_names
from environment import JsonFile, Value, print_rows, write_rows
from rich.console import Console
from rich.progress import Progress
from torch import nn

from cospipe.backends.emulator.assembly_loops import Loop, hot_loops, innermost_loops
from cospipe.backends.emulator.llvm_mca import LlvmTools, find_llvm_tools
from cospipe.backends.tvm.lower import lower_stage
from cospipe.backends.tvm.target import core_target, kernel_core
from cospipe.ir.capture import capture
from cospipe.ir.errors import CospipeError, LoweringError, UsageError, nearest, several
from cospipe.ir.soc import Cluster, load_soc, soc_names


class Product(nn.Module):
    """A matrix product of two activations, as in attention."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return left @ right


class Layer(NamedTuple):
    """One layer and the shapes of its inputs."""

    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]


KERNELS = {
    "conv3x3": Layer(nn.Conv2d(64, 64, 3, padding=1), ((1, 64, 56, 56),)),
    "conv1x1": Layer(nn.Conv2d(256, 64, 1), ((1, 256, 28, 28),)),
    "depthwise3x3": Layer(nn.Conv2d(96, 96, 3, padding=1, groups=96), ((1, 96, 56, 56),)),
    "first_layer": Layer(nn.Conv2d(3, 32, 3, stride=2, padding=1), ((1, 3, 224, 224),)),
    "linear": Layer(nn.Linear(384, 384), ((128, 384),)),
    "matmul": Layer(Product(), ((12, 128, 32), (12, 32, 128))),
}
CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a73", "cortex-a76")
GOALS = {"cortex-a53": 1.6, "cortex-a55": 1.3, "cortex-a72": 1.1, "cortex-a73": 1.1}
"""Cycles per FMA that a hot loop may need."""
_LISTS = ("--mcpu", "--kernel")

Measured = tuple[dict[str, Value], Loop]
"""A row and the loop it is about."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json: JsonFile = "",
    mcpu: Annotated[list[str] | None, typer.Option(help=f"any of {', '.join(CORES)}, or of another chip")] = None,
    kernel: Annotated[list[str] | None, typer.Option(help=f"any of {', '.join(KERNELS)}")] = None,
    loops: Annotated[int, typer.Option(min=1, help="most loops of a kernel; those with the most FMAs")] = 4,
    listing: Annotated[bool, typer.Option("--listing", help="also print the instructions of every loop")] = False,
) -> None:
    """Predict the cycles of the hot loops.

    Example: python benchmarks/inner_loops.py --mcpu cortex-a53 cortex-a72 --kernel conv3x3 --json loops.json
    """
    kernels, clusters = kernel or list(KERNELS), described_clusters()
    cores = mcpu or list(CORES)
    try:
        check_known(kernels, cores, clusters)
        tools = find_llvm_tools()
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    measured: list[Measured] = []
    problems: list[str] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for core, name in progress.track(list(product(cores, kernels))):
            found, problem = measure(name, clusters[core], tools, loops)
            measured += found
            problems += problem
    _show(measured, json, listing, tools)
    if problems:
        typer.echo(several("Not every kernel could be measured", problems), err=True)
        raise typer.Exit(1)


def measure(name: str, cluster: Cluster, tools: LlvmTools, most: int) -> tuple[list[Measured], list[str]]:
    """Return a kernel's hot loops with their rows, and what went wrong: one kernel does not take the others with it."""
    try:
        loops = compiled_loops(name, cluster, tools, most)
        return [(loop_row(name, cluster.core_type, rank, loop, tools), loop) for rank, loop in enumerate(loops)], []
    except CospipeError as error:
        return [], [f"{name} for {cluster.core_type}: {error}"]


def described_clusters() -> dict[str, Cluster]:
    """Return one cluster for each type of AArch64 core in the SoC descriptions."""
    socs = [load_soc(name) for name in soc_names()]
    clusters = [cluster for soc in socs if soc.architecture == "aarch64" for cluster in soc.clusters]
    return {cluster.core_type: cluster for cluster in reversed(clusters)}


def check_known(kernels: Sequence[str], cores: Sequence[str], clusters: Collection[str]) -> None:
    """Check the names of kernels and cores.

    Raises
    ------
    UsageError
        When there are unknown ones, with all of them.
    """
    problems = [f"There is no kernel {name!r}. {nearest(name, KERNELS)}" for name in kernels if name not in KERNELS]
    problems += [
        f"No described AArch64 chip has cores of type {core!r}. {nearest(core, clusters)}"
        for core in cores
        if core not in clusters
    ]
    if problems:
        raise UsageError(several("Unknown names", problems))


def compiled_loops(name: str, cluster: Cluster, tools: LlvmTools, most: int) -> list[Loop]:
    """Compile one layer for one core of a cluster and return its hot loops."""
    torch.manual_seed(0)
    layer = KERNELS[name]
    inputs = tuple(torch.randn(shape) for shape in layer.shapes)
    target, core = core_target(cluster, 1, "aarch64"), kernel_core(cluster, 1, "aarch64")
    with tempfile.TemporaryDirectory(prefix="inner-loops-") as folder:
        library = Path(folder) / f"{name}.so"
        lower_stage(capture(layer.module.eval(), inputs), inputs, target, core, library)
        found = hot_loops(innermost_loops(tools.disassemble(library)), most)
    if not found:
        raise LoweringError("None of its loops has a multiply-add: look at how the kernel was scheduled.")
    return found


def loop_row(name: str, mcpu: str, rank: int, loop: Loop, tools: LlvmTools) -> dict[str, Value]:
    """Return what a row says of one loop; ``rank`` 0 is the one with the most FMAs of its kernel."""
    cycles = tools.cycles_per_turn(loop, mcpu)
    return {
        "kernel": name,
        "mcpu": mcpu,
        "loop": rank,
        "cycles_per_fma": round(cycles / loop.fma, 3),
        "goal": GOALS.get(mcpu),
        "instructions_per_fma": round(len(loop.instructions) / loop.fma, 3),
        "loads_per_fma": round(loop.loads / loop.fma, 3),
        "fma_in_loop": loop.fma,
        "instructions_in_loop": len(loop.instructions),
        "stores": loop.stores,
        "spills": loop.spills,
    }


def _show(measured: Sequence[Measured], json: str, listing: bool, tools: LlvmTools) -> None:
    rows, version = [row for row, _ in measured], ".".join(map(str, tools.version))
    if listing:
        for row, loop in measured:
            typer.echo(f"{row['kernel']}, {row['mcpu']}, loop {row['loop']}:\n{loop.assembly}", err=True)
    if json:
        write_rows(rows, json, summary={"llvm_mca": version})
    if rows and json != "-":
        print_rows(f"Hot loops as llvm-mca {version} sees them", rows)


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
