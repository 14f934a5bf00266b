"""Measured convolutions from tables that others published, as rows to fit latency models to.

Three sets of columns are read: those of ARM Compute Library on an RK3399Pro (``time_ms``), of MNN on phones
(``median_us``) and of AutoTVM's tuning logs (``cost_s``).
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cospipe.ir.errors import UsageError, several
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer

Cells = Mapping[str, str]

CONVOLUTIONS = ("conv", "dwconv", "")
_FLOAT_BYTES = 4
_SIZES = ("cin", "h", "cout", "kh", "kw")
_MOST_PROBLEMS = 5
_PHONE_CORES = {
    ("huawei_p40", "big"): "cortex-a76",
    ("huawei_p40", "little"): "cortex-a55",
    ("oneplus5t", "big"): "cortex-a73",
    ("oneplus5t", "little"): "cortex-a53",
}
_TUNED_BOARDS = {"bcm2837": ("cortex-a53", 4), "rk3399": ("cortex-a72", 2), "snapdragon835": ("cortex-a73", 4)}
"""Core type and number of threads behind the names in AutoTVM's logs."""


@dataclass(frozen=True)
class TableLayer:
    """A measured convolution and the kernel that computed it, where the table names one."""

    row: MeasuredLayer
    kernel: str = ""

    @property
    def cores(self) -> tuple[str, int]:
        """Core type and number of threads."""
        return self.row.core_type, self.row.configuration.cores


@dataclass(frozen=True)
class Format:
    """Columns of one kind of table."""

    time_column: str
    microseconds: float
    needed: tuple[str, ...]
    is_used: Callable[[Cells], bool]
    cores: Callable[[Cells], tuple[str, str, int]]
    """Core type, cluster and threads."""
    library: str


def read_layers(path: Path) -> list[TableLayer]:
    """Return the convolutions of a table.

    Rows of other operators, of failed measurements and of clocks below the highest are left out, and rows whose sizes
    contradict each other, which are counted on standard error.

    Raises
    ------
    UsageError
        When the table cannot be read, lacks columns, has times that are no positive number, or no convolution is left.
    """
    rows, columns = _read(path)
    found = _format(path, columns)
    used = [cells for cells in rows if found.is_used(cells) and all(_number(cells, size) for size in _SIZES)]
    _check_times(path, used, found)
    layers = [_layer(cells, found) for cells in used]
    consistent = [layer for layer, cells in zip(layers, used, strict=True) if _is_consistent(cells)]
    if len(consistent) < len(layers):
        print(f"{path.name}: {len(layers) - len(consistent)} rows contradict themselves, left out", file=sys.stderr)
    if not consistent:
        raise UsageError(f"{path} has no convolution with all its sizes ({', '.join(_SIZES)}).")
    return consistent


def library_of(path: Path) -> str:
    """Return the name of the kernels that a table measured."""
    return _format(path, _read(path)[1]).library


def _read(path: Path) -> tuple[list[dict[str, str]], Sequence[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"The table {str(path)!r} cannot be read: {error}.") from error


def _format(path: Path, columns: Sequence[str]) -> Format:
    for known in FORMATS:
        if known.time_column in columns:
            if missing := [repr(column) for column in known.needed if column not in columns]:
                raise UsageError(f"The table {str(path)!r} has no column {', '.join(missing)}.")
            return known
    times = ", ".join(known.time_column for known in FORMATS)
    raise UsageError(f"The table {str(path)!r} has no column of times that is known here: {times}.")


def _check_times(path: Path, rows: Sequence[Cells], found: Format) -> None:
    wrong = [cells for cells in rows if not _number(cells, found.time_column) > 0]
    if wrong:
        shown = [f"{cells[found.time_column]!r} of {_sizes_text(cells)}" for cells in wrong[:_MOST_PROBLEMS]]
        raise UsageError(several(f"{path}: {len(wrong)} {found.time_column} are no positive number, as", shown))


def _layer(cells: Cells, found: Format) -> TableLayer:
    core_type, cluster, threads = found.cores(cells)
    time_us = _number(cells, found.time_column) * found.microseconds
    network = cells.get("network") or (cells.get("model") if found.time_column == "median_us" else "") or ""
    row = MeasuredLayer(network, _descriptor(cells), core_type, CoreConfiguration(cluster, threads), time_us)
    return TableLayer(row, cells.get("task", "") if found.time_column == "cost_s" else "")


def _descriptor(cells: Cells) -> LayerDescriptor:
    batch, groups = _whole(cells, "n", 1) if "cost_s" in cells else 1, _whole(cells, "groups", 1)
    channels, columns = _whole(cells, "cin"), _whole(cells, "cout")
    height, kernel = _whole(cells, "h"), (_whole(cells, "kh"), _whole(cells, "kw"))
    width = _whole(cells, "w", height)
    output = _output_size(cells, height, width)
    rows, inner = batch * output[0] * output[1], kernel[0] * kernel[1] * channels // groups
    return LayerDescriptor(
        kind=_kind(channels, groups, kernel),
        gemm_n=rows,
        gemm_k=inner,
        gemm_m=columns,
        macs=rows * inner * columns,
        input_bytes=_FLOAT_BYTES * batch * channels * height * width,
        weight_bytes=_FLOAT_BYTES * inner * columns,
        output_bytes=_FLOAT_BYTES * rows * columns,
        groups=groups,
        stride=_stride(cells),
        kernel=kernel,
        output_size=output,
        dilation=_whole(cells, "dil", 1),
    )


def _kind(channels: int, groups: int, kernel: tuple[int, int]) -> LayerKind:
    if groups > 1:
        return LayerKind.DEPTHWISE_CONV if groups == channels else LayerKind.GROUPED_CONV
    return LayerKind.POINTWISE_CONV if kernel == (1, 1) else LayerKind.CONV


def _output_size(cells: Cells, height: int, width: int) -> tuple[int, int]:
    """Return height and width of the result; from the padding where the table does not say."""
    if _number(cells, "oh"):
        return _whole(cells, "oh"), _whole(cells, "ow", _whole(cells, "oh"))
    return (
        _convolved(height, _whole(cells, "kh"), cells, _whole(cells, "pt", 0) + _whole(cells, "pb", 0)),
        _convolved(width, _whole(cells, "kw"), cells, _whole(cells, "pl", 0) + _whole(cells, "pr", 0)),
    )


def _convolved(size: int, kernel: int, cells: Cells, padding: int) -> int:
    reach = _whole(cells, "dil", 1) * (kernel - 1) + 1
    return (size + padding - reach) // _stride(cells) + 1


def _is_consistent(cells: Cells) -> bool:
    """Return whether the result is at least as large as without padding; a smaller one means a wrong kernel size."""
    height = _whole(cells, "h")
    return _output_size(cells, height, height)[0] >= _convolved(height, _whole(cells, "kh"), cells, 0) >= 1


def _stride(cells: Cells) -> int:
    return _whole(cells, "sh", _whole(cells, "stride", 1))


def _whole(cells: Cells, column: str, default: int = 0) -> int:
    return round(_number(cells, column)) or default


def _number(cells: Cells, column: str) -> float:
    """Return a cell as a number, 0 where there is none."""
    try:
        value = float(cells.get(column) or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _sizes_text(cells: Cells) -> str:
    return ", ".join(f"{size} {cells.get(size)}" for size in _SIZES)


def _is_conv(cells: Cells) -> bool:
    return (cells.get("kind") or "") in CONVOLUTIONS


def _armcl_cores(cells: Cells) -> tuple[str, str, int]:
    is_big = cells["component"] == "B"
    threads = _whole(cells, "threads", 2 if is_big else 4)
    return ("cortex-a72", "big", threads) if is_big else ("cortex-a53", "little", threads)


def _phone_cores(cells: Cells) -> tuple[str, str, int]:
    device, cluster = cells["device"], cells["cluster"]
    core_type = _PHONE_CORES.get((device, cluster), f"{device} {cluster}")
    return core_type, f"{device}_{cluster}", _whole(cells, "threads", 1)


def _tuned_cores(cells: Cells) -> tuple[str, str, int]:
    board = cells.get("model") or "board"
    core_type, threads = _TUNED_BOARDS.get(board, (board, 1))
    return cells.get("core") or core_type, board, _whole(cells, "threads", threads)


_FULL_CLOCKS = {"B": 1800, "L": 1416}

FORMATS = (
    Format(
        "time_ms",
        1e3,
        ("network", "component", "freq_mhz", "kind", *_SIZES),
        lambda cells: _is_conv(cells) and _number(cells, "freq_mhz") == _FULL_CLOCKS.get(cells["component"]),
        _armcl_cores,
        "ARM Compute Library",
    ),
    Format("median_us", 1, ("device", "cluster", "kind", *_SIZES), _is_conv, _phone_cores, "MNN"),
    Format(
        "cost_s",
        1e6,
        _SIZES,
        lambda cells: _is_conv(cells) and not _number(cells, "error"),
        _tuned_cores,
        "AutoTVM",
    ),
)
