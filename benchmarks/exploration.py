"""Exploration against heuristics, and its predictions against pipelines and co-executions measured by others.

* ``search``: the exact search against what others would do, on every described chip.
* ``pipelines``: the period of big-to-LITTLE pipelines on an RK3399Pro, from times of their parts alone.
* ``mobile-socs``: images/s of all components at once, from the images/s of each alone.
* ``whole-runs``: runs of one frame at a time on an RK3399Pro, from times of the blocks alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, print_rows, write_rows
from exploration_search import search_rows
from measured_pipelines import pipeline_rows, read_pipelines
from mobile_socs import co_execution_rows, read_co_executions
from models import model_specs
from whole_runs import whole_run_rows

from cospipe.ir.errors import CospipeError, UsageError, nearest
from cospipe.ir.soc import load_soc, soc_names

SECTIONS = ("search", "pipelines", "mobile-socs", "whole-runs")
MODELS = (
    "alexnet",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg16",
)
MEASURED_BOARD = "rk3399"
"""An RK3399Pro is an RK3399 with an NPU."""


_LISTS = ("--sections", "--models", "--socs")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[
        Path | None, typer.Option(help="Folder with the tables others measured; without it, only the search.")
    ] = None,
    sections: Annotated[list[str] | None, typer.Option(help=f"What to do: {', '.join(SECTIONS)}.")] = None,
    models: Annotated[list[str] | None, typer.Option(help="Networks for the search, --models A B.")] = None,
    socs: Annotated[list[str] | None, typer.Option(help="Chips for the search, --socs A B; all by default.")] = None,
    json: JsonFile = "",
) -> None:
    """Compare the exploration with heuristics and with measurements.

    Example: python benchmarks/exploration.py --data tables --sections pipelines mobile-socs --json -
    """
    try:
        rows = [row for section in _chosen(sections, data) for row in _rows(section, data, models, socs)]
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    if json:
        write_rows(rows, json)
        return
    for section in SECTIONS:
        if shown := [row for row in rows if row["section"] == section]:
            print_rows(section, shown)


def _chosen(sections: Sequence[str] | None, data: Path | None) -> list[str]:
    chosen = list(sections or (SECTIONS if data else SECTIONS[:1]))
    for section in chosen:
        if section not in SECTIONS:
            raise UsageError(f"There is no section {section!r}. {nearest(section, SECTIONS)}")
        if section != SECTIONS[0] and data is None:
            raise UsageError(f"The section {section} needs the tables; name their folder with --data.")
    return chosen


def _rows(section: str, data: Path | None, models: Sequence[str] | None, socs: Sequence[str] | None) -> list[Row]:
    print(f"{section} ...", file=sys.stderr)
    if section == "search":
        chips = [load_soc(name) for name in socs or [name for name in soc_names() if name != "host"]]
        return search_rows(model_specs(models or MODELS), chips)
    assert data is not None
    board = load_soc(MEASURED_BOARD)
    if section == "pipelines":
        return pipeline_rows(read_pipelines(data, board), board)
    if section == "mobile-socs":
        return co_execution_rows(read_co_executions(data))
    return whole_run_rows(data, board)


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))
