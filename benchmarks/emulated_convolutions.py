"""Emulated times of single convolutions beside the times of other kernels, measured on a real chip.

No board with our kernels is at hand. A table of measured convolutions (columns as in tophub's: ``model`` is the board,
``cost_s`` the time) says whether predictions have the right order and proportions: the kernels are others, so the ratio
of the two times need not be 1, but a good prediction has nearly the same ratio everywhere. Convolutions that either
side computes by Winograd's method, 3x3 of stride 1, are left out. Fields of a row:

* ``convolution``: input channels x height x width, output channels, kernel, stride, groups;
* ``measured_us``, ``emulated_us``, ``analytic_us``: the table's time, and what is predicted for our kernel.

The summary has for both predictions the median ratio to the measured time, and the median deviation from that ratio.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from environment import JsonFile, Row, print_rows, write_rows
from torch import nn

from cospipe.backends.emulator.cycle_counter import CycleCounter
from cospipe.backends.emulator.emulated_profile import counter_for, emulate
from cospipe.backends.profiling.networks import prepare_network
from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import CospipeError, UsageError, nearest, several
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc, load_soc

_COLUMNS = ("cin", "h", "w", "cout", "kh", "kw", "sh", "sw", "pt", "pl", "groups")
_PREDICTIONS = ("emulated", "analytic")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Convolution(NamedTuple):
    """One convolution, and the shortest time that was measured for it in microseconds."""

    sizes: tuple[int, ...]
    measured_us: float

    @property
    def text(self) -> str:
        """Its sizes for people."""
        cin, h, w, cout, kh, kw, sh, _, _, _, groups = self.sizes
        return f"{cin}x{h}x{w} to {cout}, {kh}x{kw}/{sh}" + (f", {groups} groups" if groups > 1 else "")

    def module(self) -> nn.Conv2d:
        """Return it as a layer."""
        cin, _, _, cout, kh, kw, sh, sw, pt, pl, groups = self.sizes
        return nn.Conv2d(cin, cout, (kh, kw), (sh, sw), (pt, pl), groups=groups)

    def input(self) -> torch.Tensor:
        """Return an image for it."""
        return torch.randn(1, *self.sizes[:3])


class SideBySide(nn.Module):
    """Layers that have nothing to do with each other."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute each of its own input."""
        return tuple(layer(value) for layer, value in zip(self.layers, inputs, strict=True))


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="CSV with the columns of tophub's convolutions")],
    board: Annotated[str, typer.Option(help="which rows: their column model")] = "rk3399",
    soc: Annotated[str, typer.Option(help="the chip of that board")] = "rk3399",
    cores: Annotated[str, typer.Option(help="the cores that were measured")] = "big:2",
    count: Annotated[int, typer.Option(min=1, help="how many convolutions, drawn at random")] = 40,
    json: JsonFile = "",
) -> None:
    """Compare predictions with a table of measured convolutions.

    Example: python benchmarks/emulated_convolutions.py --data ../shared/data/tvm_tuned_convs.csv --json -
    """
    try:
        chip, configuration = load_soc(soc), CoreConfiguration.parse(cores)
        counter = counter_for(chip, [configuration])
        chosen = read_convolutions(data, board, count)
        rows = predict(chosen, chip, configuration, counter)
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    summary = summarise(rows)
    if json:
        write_rows(rows, json, summary={"board": board, "soc": soc, "cores": cores, **summary})
    if json != "-":
        print_rows(f"{board}, predicted for {cores} of {chip.title}", rows)
        print_rows("Ratio to the measured times", [summary])


def read_convolutions(file: Path, board: str, count: int) -> list[Convolution]:
    """Return some convolutions of a board, always the same ones.

    Raises
    ------
    UsageError
        When the table cannot be read, lacks columns, or has no such board.
    """
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The table {str(file)!r} cannot be read: {error}.") from error
    wanted = ("model", "task", "cost_s", *_COLUMNS)
    if missing := [name for name in wanted if not rows or name not in rows[0]]:
        raise UsageError(several(f"{file} lacks columns", missing))
    boards = {row["model"] for row in rows}
    if board not in boards:
        raise UsageError(f"{file} has no board {board!r}. {nearest(board, boards)}")
    fastest: dict[tuple[int, ...], float] = {}
    for row in rows:
        sizes = tuple(int(float(row[name])) for name in _COLUMNS)
        if row["model"] == board and not _is_winograd(row, sizes):
            fastest[sizes] = min(fastest.get(sizes, float("inf")), float(row["cost_s"]) * 1e6)
    all_of_them = [Convolution(sizes, measured_us) for sizes, measured_us in sorted(fastest.items())]
    return random.Random(0).sample(all_of_them, min(count, len(all_of_them)))


def _is_winograd(row: Mapping[str, str], sizes: tuple[int, ...]) -> bool:
    _, _, _, _, kh, kw, sh, sw, _, _, groups = sizes
    return "winograd" in row["task"] or (kh, kw, sh, sw, groups) == (3, 3, 1, 1, 1)


def predict(
    convolutions: Sequence[Convolution], soc: Soc, cores: CoreConfiguration, counter: CycleCounter
) -> list[Row]:
    """Return a row for each convolution; all are compiled as one network."""
    torch.manual_seed(0)
    module = SideBySide([convolution.module() for convolution in convolutions]).eval()
    inputs = [convolution.input() for convolution in convolutions]
    network = prepare_network("convolutions", module, inputs)
    run = emulate(network, soc, cores, counter, lambda step: typer.echo(step, err=True))
    layers = {layer.nodes[0]: layer for layer in run.layers}
    names = [node.name for node in network.graph_module.graph.nodes if node.op == "call_function"]
    model = AnalyticLatencyModel(soc)
    return [
        {
            "convolution": convolution.text,
            "measured_us": round(convolution.measured_us, 1),
            "emulated_us": round(run.kernel_time(layers[name]).median_us, 1),
            "analytic_us": round(model.predict_us(layers[name].layer, cores), 1),
        }
        for name, convolution in zip(names, convolutions, strict=True)
    ]


def summarise(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Return the median ratio of each prediction to what was measured, and the median deviation from that ratio."""
    summary: dict[str, float] = {}
    for prediction in _PREDICTIONS:
        ratios = [float(str(row[f"{prediction}_us"])) / float(str(row["measured_us"])) for row in rows]
        middle = median(ratios)
        summary[f"{prediction}_ratio"] = round(middle, 3)
        summary[f"{prediction}_deviation"] = round(median(abs(ratio / middle - 1) for ratio in ratios), 3)
    return summary


if __name__ == "__main__":
    app()
