"""Pipe-it's latency model, the baseline: linear in N, K, M and their products (arXiv 1903.05898, section IV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cospipe.ir.errors import UsageError
from cospipe.ir.latency import LatencyModel, LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.layer_features import Array
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer
from cospipe.ir.regression_latency import check_times

ROW_BLOCK = 8
"""Rows of the matrix product that a thread takes at a time."""


@dataclass(frozen=True)
class PipeItRegression(LatencyModel):
    """Linear least squares for each core type and kind of layer; several threads by their largest share of row blocks.

    On one core, t = c0 + c1 N + c2 K + c3 M + c4 NK + c5 NM + c6 KM + c7 NKM. With p threads, the one that gets most
    computes ceil(B / p) of the B row blocks, so the time is ceil(B / p) / B times that on one core, plus an overhead
    of having threads (the median of what is left of the measured times). Where one core was not measured, the line is
    fitted to the largest share of rows of the fewest threads that were.

    Parameters
    ----------
    kernel_library : str
        Name of the kernels that were measured.
    lines : mapping of (core type, kind) to (int, array)
        Threads the line belongs to, and its eight factors.
    overheads_us : mapping of (core type, threads) to float
        Time that threads add.
    core_types : mapping of str to str
        Core type of each cluster.
    shortest_us : float
        The shortest measured time; a line that falls below it stops there.
    """

    kernel_library: str
    lines: Mapping[tuple[str, LayerKind], tuple[int, Array]]
    overheads_us: Mapping[tuple[str, int], float]
    core_types: Mapping[str, str]
    shortest_us: float

    def predict(
        self, layer: LayerDescriptor, configuration: CoreConfiguration, node: str | None = None
    ) -> LatencyPrediction:
        """Return the prediction for one layer; ``node`` makes no difference.

        Raises
        ------
        UsageError
            When no layer of this kind was measured on such cores.
        """
        core_type = self.core_types.get(configuration.cluster, "")
        if (core_type, layer.kind) not in self.lines:
            raise UsageError(f"No {layer.kind.value} layer was measured on cluster {configuration.cluster!r}.")
        line = self.lines[core_type, layer.kind]
        overhead_us = self.overheads_us.get((core_type, configuration.cores), 0.0)
        time_us = _line_time(line, layer, configuration.cores) + overhead_us
        return LatencyPrediction(max(time_us, self.shortest_us), LatencySource.REGRESSION)


def fit_pipe_it(rows: Sequence[MeasuredLayer], kernel_library: str = "measured kernels") -> PipeItRegression:
    """Fit the baseline to measured layers.

    Raises
    ------
    UsageError
        When there is no row, or a time is negative or no number.
    """
    check_times(rows)
    lines: dict[tuple[str, LayerKind], tuple[int, Array]] = {}
    for key in sorted({(row.core_type, row.layer.kind) for row in rows}):
        of_kind = [row for row in rows if (row.core_type, row.layer.kind) == key]
        threads = min(row.configuration.cores for row in of_kind)
        lines[key] = threads, _fit_line([row for row in of_kind if row.configuration.cores == threads], threads)
    left: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        line, threads = lines[row.core_type, row.layer.kind], row.configuration.cores
        if threads != line[0]:
            left.setdefault((row.core_type, threads), []).append(row.time_us - _line_time(line, row.layer, threads))
    overheads_us = {key: float(np.median(values)) for key, values in left.items()}
    core_types = {row.configuration.cluster: row.core_type for row in rows}
    shortest_us = min((row.time_us for row in rows if row.time_us > 0), default=0.0)
    return PipeItRegression(kernel_library, lines, overheads_us, core_types, shortest_us)


def _fit_line(rows: Sequence[MeasuredLayer], threads: int) -> Array:
    products = np.array([_products(row.layer, threads) for row in rows])
    factors: Array = np.linalg.lstsq(products, np.array([row.time_us for row in rows]), rcond=None)[0]
    return factors


def _line_time(line: tuple[int, Array], layer: LayerDescriptor, threads: int) -> float:
    fitted_threads, factors = line
    share = _largest_share(layer, threads) / _largest_share(layer, fitted_threads)
    return float(np.array(_products(layer, fitted_threads)) @ factors) * share


def _products(layer: LayerDescriptor, threads: int) -> tuple[float, ...]:
    n, k, m = _largest_share(layer, threads), layer.gemm_k, layer.gemm_m
    return 1, n, k, m, n * k, n * m, k * m, n * k * m


def _largest_share(layer: LayerDescriptor, threads: int) -> float:
    """Return the rows of the thread that gets most."""
    blocks = -(-max(layer.gemm_n, 1) // ROW_BLOCK)
    return -(-blocks // threads) * ROW_BLOCK if threads > 1 else max(layer.gemm_n, 1)
