"""How well times of convolutions on ARM boards are predicted from those of other networks' convolutions.

``python benchmarks/latency_prediction.py --data FOLDER --json FILE`` reads the published tables in a folder. For each
table, core type and number of threads, each network is left out once; the sources are fitted to all others and predict
its convolutions:

- ``regression``: ``cospipe.ir.regression_latency``;
- ``pipe-it``: Pipe-it's form, linear in N, K, M and their products, largest share of row blocks for several threads;
- ``extra-trees``: plain extra-trees on logarithms of the sizes, for scale;
- ``analytic``: ``cospipe.ir.analytic_latency``, from layer and chip alone, where the board has a description.

A table without names of networks is split by the known networks that its shapes make up, a table of one network (or of
none that is known) into tenths of its different shapes. Convolutions of a kind that only one network has are left out
for every source, as nothing can be learned of them.

``--fit CSV ... --test CSV`` fits to some tables and predicts another one; ``--source analytic --soc NAME --cluster NAME
--cores N --test CSV`` needs nothing to fit to. Errors are shares of the measured time: the median and the 90th
percentile of single layers, and that of the sum of the network; rows with ``held_out`` "all" are of all layers of all
networks, and the median of their sums.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from environment import JsonFile, Row, print_rows, write_rows
from held_out_networks import (
    EVERYTHING,
    Errors,
    Split,
    comparable,
    errors,
    is_learnable,
    networks_of,
    predict_kernels,
    splits,
    summary,
)
from latency_sources import FITTED, Predict, of_model
from layer_tables import TableLayer, library_of, read_layers

from cospipe.ir.analytic_latency import AnalyticLatencyModel
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.kernel_libraries import library_efficiency
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.soc import Soc, load_soc

TABLES = ("armcl_rk3399pro_ops.csv", "mnn_phone_ops.csv", "tvm_tuned_convs.csv")
ANALYTIC = "analytic"
SOURCES = (*FITTED, ANALYTIC)

_BOARDS = {
    ("armcl_rk3399pro_ops.csv", "cortex-a72"): ("rk3399", "big"),
    ("armcl_rk3399pro_ops.csv", "cortex-a53"): ("rk3399", "little"),
    ("tvm_tuned_convs.csv", "cortex-a72"): ("rk3399", "big"),
}
"""Descriptions of the boards behind the published tables."""


def leave_one_out(path: Path, sources: Sequence[str]) -> list[Row]:
    """Return the rows of one table."""
    rows, library = [], library_of(path)
    for cores, layers in _by_cores(read_layers(path)):
        soc, cluster = _BOARDS.get((path.name, cores[0]), ("", layers[0].row.configuration.cluster))
        described = load_soc(soc) if soc else None
        table = _measured_on(comparable(layers), CoreConfiguration(cluster, cores[1]))
        for source in sources:
            if source != ANALYTIC or described:
                print(f"{path.name}, {cores[0]} x {cores[1]}, {source}", file=sys.stderr)
                rows += _rows(path.name, source, cores, _held_out(table, source, described, library))
    return rows


def _held_out(table: Sequence[TableLayer], source: str, soc: Soc | None, library: str) -> dict[str, Errors]:
    found = {}
    for split in splits(table):
        kept = [layer for index, layer in enumerate(table) if index not in split.counts]
        counts = {index: count for index, count in split.counts.items() if is_learnable(table[index], kept)}
        left_out = [table[index] for index in counts]
        if not left_out:
            continue
        if source == ANALYTIC and soc is not None:
            predictors = _analytic(soc, library, left_out)
        else:
            predictors = _fitted(source, kept, left_out, soc)
        times_us = predict_kernels(predictors, left_out)
        found[split.held_out] = errors(left_out, list(counts.values()), times_us)
    return found


def fit_and_test(fit: Sequence[Path], test: Path, sources: Sequence[str]) -> list[Row]:
    """Return the rows of one table, predicted from others."""
    known = [layer for path in fit for layer in read_layers(path)]
    rows = []
    for cores, table in _by_cores(read_layers(test)):
        kept = _like(known, cores, table)
        learnable = _learnable(table, kept, test)
        for source in sources:
            predictors = _fitted(source, kept, learnable, None)
            rows += _rows(test.name, source, cores, _test(predictors, learnable))
    return rows


def _learnable(table: Sequence[TableLayer], kept: Sequence[TableLayer], path: Path) -> list[TableLayer]:
    """Return the layers of kinds that are in the fit; the others are counted on standard error."""
    chosen = [layer for layer in table if is_learnable(layer, kept)]
    if not chosen:
        raise UsageError(f"No kind of convolution in {path} is in the tables that were fitted to.")
    if len(chosen) < len(table):
        print(f"{path.name}: {len(table) - len(chosen)} layers of kinds that are not in the fit", file=sys.stderr)
    return chosen


def analytic_test(soc: Soc, cluster: str, cores: int, test: Path) -> list[Row]:
    """Return the rows of one table, predicted from the description of a board; several boards in it stay apart."""
    configuration, library = CoreConfiguration(cluster, cores), library_of(test)
    soc.check_cores([configuration])
    label = soc.cluster(cluster).core_type, cores
    boards = _by_board(read_layers(test))
    rows: list[Row] = []
    for board, layers in boards.items():
        table = _measured_on(layers, configuration)
        prefix = f"{board}, " if len(boards) > 1 else ""
        rows += _rows(test.name, ANALYTIC, label, _test(_analytic(soc, library, table), table), prefix)
    return rows


def _by_board(table: Sequence[TableLayer]) -> dict[str, list[TableLayer]]:
    boards: dict[str, list[TableLayer]] = {}
    for layer in table:
        boards.setdefault(f"{layer.row.configuration}", []).append(layer)
    return boards


def _test(predictors: Mapping[str, Predict], table: Sequence[TableLayer]) -> dict[str, Errors]:
    times_us = predict_kernels(dict(predictors), table)
    parts = networks_of(table) or [Split(EVERYTHING, Counter(range(len(table))))]
    found = {
        part.held_out: errors(
            [table[index] for index in part.counts],
            list(part.counts.values()),
            [times_us[index] for index in part.counts],
        )
        for part in parts
    }
    return found


def _like(known: Sequence[TableLayer], cores: tuple[str, int], table: Sequence[TableLayer]) -> list[TableLayer]:
    """Return the layers measured on these cores; if all were measured on one other board, they count as these."""
    same = [layer for layer in known if layer.cores == cores]
    if same:
        return same
    measured = sorted({layer.cores for layer in known})
    boards = ", ".join(f"{core} x {threads}" for core, threads in measured)
    if len(measured) > 1:
        raise UsageError(
            f"Nothing to fit to was measured on {cores[0]} x {cores[1]}, only on {boards}. For a board that nobody "
            "measured take --source analytic with --soc."
        )
    print(f"Nothing to fit to was measured on {cores[0]} x {cores[1]}; fitted to {boards}.", file=sys.stderr)
    return _measured_on(known, table[0].row.configuration, cores[0])


def _measured_on(
    layers: Sequence[TableLayer], configuration: CoreConfiguration, core_type: str = ""
) -> list[TableLayer]:
    """Return the layers as measured on other cores."""
    rows = [replace(layer.row, configuration=configuration) for layer in layers]
    return [
        replace(layer, row=replace(row, core_type=core_type or row.core_type))
        for layer, row in zip(layers, rows, strict=True)
    ]


def _fitted(
    source: str, kept: Sequence[TableLayer], wanted: Sequence[TableLayer], soc: Soc | None
) -> dict[str, Predict]:
    """Return a predictor for each kernel: what computed a layer is known before it is predicted."""
    return {
        kernel: FITTED[source]([layer.row for layer in kept if layer.kernel == kernel], soc)
        for kernel in {layer.kernel for layer in wanted}
    }


def _analytic(soc: Soc, library: str, table: Sequence[TableLayer]) -> dict[str, Predict]:
    return {
        kernel: of_model(AnalyticLatencyModel(soc, library, library_efficiency(library, kernel)))
        for kernel in {layer.kernel for layer in table}
    }


def _rows(table: str, source: str, cores: tuple[str, int], found: Mapping[str, Errors], prefix: str = "") -> list[Row]:
    parts = [(name, [one]) for name, one in found.items() if name != EVERYTHING]
    parts.append((EVERYTHING, list(found.values())))
    return [
        {
            "table": table,
            "held_out": f"{prefix}{name}",
            "source": source,
            "core": cores[0],
            "threads": cores[1],
            **summary(part),
        }
        for name, part in parts
    ]


def _by_cores(table: Iterable[TableLayer]) -> list[tuple[tuple[str, int], list[TableLayer]]]:
    ordered = sorted(table, key=lambda layer: layer.cores)
    return [(cores, list(group)) for cores, group in groupby(ordered, key=lambda layer: layer.cores)]


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of the published tables.")] = None,
    fit: Annotated[list[Path] | None, typer.Option(help="Tables to fit to.")] = None,
    test: Annotated[Path | None, typer.Option(help="Table to predict.")] = None,
    source: Annotated[list[str] | None, typer.Option(help=f"Any of {', '.join(SOURCES)}; all that apply.")] = None,
    soc: Annotated[str, typer.Option(help="Board, for the analytic model.")] = "",
    cluster: Annotated[str, typer.Option(help="Cluster of the board.")] = "big",
    cores: Annotated[int, typer.Option(min=1, help="Cores of the cluster.")] = 1,
    json: JsonFile = "",
) -> None:
    try:
        rows = _choose(data, fit or [], test, source or [], soc, cluster, cores)
    except CospipeError as error:
        print(f"latency_prediction: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    if json:
        write_rows(rows, json, packages=("scikit-learn", "scipy"))
    else:
        print_rows("Errors on held-out networks, as shares of the measured time", rows)


def _choose(
    data: Path | None, fit: Sequence[Path], test: Path | None, source: Sequence[str], soc: str, cluster: str, cores: int
) -> list[Row]:
    if unknown := [repr(name) for name in source if name not in SOURCES]:
        raise UsageError(f"There is no source {', '.join(unknown)}; known: {', '.join(SOURCES)}.")
    if data is not None:
        paths = [data / name for name in TABLES if (data / name).is_file()]
        if not paths:
            raise UsageError(f"In {str(data)!r} is none of the tables {', '.join(TABLES)}.")
        return [row for path in paths for row in leave_one_out(path, source or SOURCES)]
    if test is None:
        raise UsageError("Name a folder of tables with --data, or a table to predict with --test.")
    if fit:
        return fit_and_test(fit, test, [name for name in source or FITTED if name != ANALYTIC])
    if not soc or list(source) not in ([], [ANALYTIC]):
        raise UsageError("Name tables to fit to with --fit, or --source analytic and a board with --soc.")
    return analytic_test(load_soc(soc), cluster, cores, test)


if __name__ == "__main__":
    sys.argv[1:] = repeat_option_names(sys.argv[1:], ["--fit", "--source"])
    typer.run(main)
