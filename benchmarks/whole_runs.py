"""Whole runs of a network, block by block on several components, against the sum of its blocks alone.

One frame at a time, so nothing overlaps: this checks that times add up and what handing over costs, not contention.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from environment import Row
from measured_pipelines import BLOCKS, CLUSTERS
from measured_tables import TableRow, number, read_table

from cospipe.ir.soc import Soc

EVALUATIONS = "rk3399pro_pipeline_evaluations.csv"
BOARD = "rk3399pro"
_CLOCKS = ("max", "min")

BlockTimes = Mapping[tuple[str, str, str], Sequence[float]]
"""Milliseconds of each block by network, component and clock (``max``, ``min``)."""


def whole_run_rows(data: Path, soc: Soc) -> list[Row]:
    """Return a row for each order of components and clock that was run on the CPU, and the median error.

    Orders were run several times; their median is what we predict. Orders with a GPU or NPU in them are left out, as
    are clocks that change from block to block.

    Raises
    ------
    UsageError
        When a table is missing or a time is no number.
    """
    blocks = read_table(data, BLOCKS, ("network", "component", "freq_mhz", "block", "metric", "time_ms"))
    evaluations = read_table(data, EVALUATIONS, ("board", "graph", "order", "freq", "task_time"))
    times_ms = _block_times_ms(blocks)
    measured_ms: dict[tuple[str, str, str], list[float]] = {}
    for row in evaluations:
        clock = _clock(row["freq"])
        if row["board"] == BOARD and clock and set(row["order"]) <= CLUSTERS.keys():
            measured_ms.setdefault((row["graph"], row["order"], clock), []).append(
                number(row, "task_time", EVALUATIONS)
            )
    rows = [_row(*run, times_ms, runs_ms, soc) for run, runs_ms in measured_ms.items() if _is_known(*run, times_ms)]
    return [*rows, *_summary(rows)]


def _row(
    network: str, order: str, clock: str, times_ms: BlockTimes, runs_ms: Sequence[float], soc: Soc
) -> dict[str, str | int | float | None]:
    alone_ms = sum(times_ms[network, component, clock][block] for block, component in enumerate(order))
    hand_overs = sum(before != after for before, after in itertools.pairwise(order))
    # what crosses is not in these tables; the fixed cost is most of it, and all of it is below 1 % here
    predicted_ms = alone_ms + hand_overs * soc.hand_over_us / 1e3
    return {
        "section": "whole-runs",
        "network": network,
        "order": order,
        "clock": clock,
        "runs": len(runs_ms),
        "predicted_ms": predicted_ms,
        "measured_ms": median(runs_ms),
        "error": predicted_ms / median(runs_ms) - 1,
    }


def _summary(rows: Sequence[Row]) -> list[Row]:
    if not rows:
        return []
    errors = [abs(float(row["error"] or 0)) for row in rows]
    text = f"median absolute error of {len(errors)}"
    return [{**dict.fromkeys(rows[0]), "section": "whole-runs", "network": text, "error": median(errors)}]


def _block_times_ms(blocks: Sequence[TableRow]) -> BlockTimes:
    found: dict[tuple[str, str, float], list[float]] = {}
    for row in blocks:
        if row["metric"] == "task" and row["component"] in CLUSTERS:
            key = (row["network"], row["component"], number(row, "freq_mhz", BLOCKS))
            found.setdefault(key, []).append(number(row, "time_ms", BLOCKS))
    times_ms = {}
    for network, component in {key[:2] for key in found}:
        clocks = [key[2] for key in found if key[:2] == (network, component)]
        times_ms[network, component, "max"] = found[network, component, max(clocks)]
        times_ms[network, component, "min"] = found[network, component, min(clocks)]
    return times_ms


def _is_known(network: str, order: str, clock: str, times_ms: BlockTimes) -> bool:
    return all(len(times_ms.get((network, component, clock), ())) == len(order) for component in set(order))


def _clock(text: str) -> str:
    """Return ``max`` for ``(('max',),)`` and ``{{max}}``; empty for a clock of each block."""
    return next((clock for clock in _CLOCKS if text.strip("(){}',\" ") == clock), "")
