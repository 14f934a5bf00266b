"""What the rows of the runtimes say together: geometric means, and the table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from environment import Row, Value, print_rows
from rich.console import Console

OURS, RIVAL, SECOND_RIVAL = "cospipe", "onnxruntime", "openvino"
OFTEN = 0.2
"""Share of interrupted runs from which on a median means little."""
Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by model and runtime."""


def summarise(rows: Sequence[Row]) -> dict[str, Value]:
    """Return the figures that the rows are taken for; above 1 is faster, None where nothing can be compared.

    * ``RUNTIME_vs_onnxruntime``: geometric mean, over the models both ran, of ONNX Runtime's median time divided by
      the runtime's; ``lowest_cospipe_vs_onnxruntime`` the smallest of cospipe's.
    * ``cospipe_vs_faster_of_onnxruntime_and_openvino``: against whichever is faster, model by model.
    * ``models_compared``: how many models both cospipe and ONNX Runtime ran.
    * ``highest_peak_memory_vs_onnxruntime``, ``longest_compile_s``: cospipe's.
    """
    times = by_model(rows, "median_ms")
    runtimes = dict.fromkeys(str(row["runtime"]) for row in rows if row["runtime"] != RIVAL)
    ours = speedups(times, OURS, (RIVAL,))
    peaks = by_model(rows, "peak_mb")
    memory = [peak[OURS] / peak[RIVAL] for peak in peaks.values() if OURS in peak and RIVAL in peak]
    compiling = [seconds[OURS] for seconds in by_model(rows, "compile_s").values() if OURS in seconds]
    means = {f"{name}_vs_{RIVAL}": _mean(speedups(times, name, (RIVAL,))) for name in runtimes}
    return {
        "models_compared": len(ours),
        **means,
        f"lowest_{OURS}_vs_{RIVAL}": _rounded(min(ours, default=None)),
        f"{OURS}_vs_faster_of_{RIVAL}_and_{SECOND_RIVAL}": _mean(speedups(times, OURS, (RIVAL, SECOND_RIVAL))),
        f"highest_peak_memory_vs_{RIVAL}": _rounded(max(memory, default=None)),
        "longest_compile_s": max(compiling, default=None),
    }


def by_model(rows: Sequence[Row], key: str) -> dict[str, dict[str, float]]:
    """Return one figure by model and runtime, where there is one."""
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row[key]
        if isinstance(value, (int, float)):
            table.setdefault(str(row["model"]), {})[str(row["runtime"])] = float(value)
    return table


def speedups(times: Times, runtime: str, rivals: Sequence[str]) -> list[float]:
    """Return the time of the fastest rival divided by the runtime's, for the models that all of them ran."""
    complete = [row for row in times.values() if {runtime, *rivals} <= row.keys()]
    return [min(row[rival] for rival in rivals) / row[runtime] for row in complete]


def _mean(values: Sequence[float]) -> float | None:
    return _rounded(geometric_mean(values) if values else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def print_report(rows: Sequence[Row], title: str) -> None:
    """Print the table, why runtimes have no figures, and the summary."""
    print_rows(title, table_rows(rows))
    lines = [f"{row['model']}, {row['runtime']}: {row['error']}" for row in rows if row["error"]]
    shares = [share for by_runtime in by_model(rows, "interrupted").values() for share in by_runtime.values()]
    if disturbed := sum(share > OFTEN for share in shares):
        lines.append(
            f"In {disturbed} of {len(rows)} rows other programs took a core away during more than {OFTEN:.0%} of"
            " the runs; such times say little. Measure again on a machine that does nothing else."
        )
    lines += [f"{name.replace('_', ' ')}: {'-' if value is None else value}" for name, value in summarise(rows).items()]
    Console().print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def table_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows as a table shows them: with the speed against ONNX Runtime, and errors only marked."""
    times = by_model(rows, "median_ms")
    shown = ("model", "runtime", "median_ms", "min_ms")
    more = ("relative_error", "peak_mb", "compile_s")
    any_error = any(row["error"] for row in rows)
    return [
        {
            **{key: row[key] for key in shown},
            f"vs_{RIVAL}": _speedup(times, row),
            **{key: row[key] for key in more},
            **({"error": "see below" if row["error"] else None} if any_error else {}),
        }
        for row in rows
    ]


def _speedup(times: Times, row: Row) -> float | None:
    model = str(row["model"])
    found = speedups({model: times.get(model, {})}, str(row["runtime"]), (RIVAL,))
    return found[0] if found else None
