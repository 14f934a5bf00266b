"""From the time of each kernel to how well every kind of kernel uses the cores."""

from __future__ import annotations

from collections.abc import Sequence

from core_limits import CoreLimits
from environment import Row, Value
from kernel_kinds import work_of
from kernel_timing import KernelCall, Timing


def kernel_rows(
    network: str, timing: Timing, limits: CoreLimits, alone: Sequence[KernelCall] = ()
) -> list[dict[str, Value]]:
    """Return one row for each kernel of a network.

    Parameters
    ----------
    network : str
        Its name.
    timing : Timing
        What was measured on ``limits.threads`` cores.
    limits : CoreLimits
        What these cores can do at most.
    alone : sequence of KernelCall
        What was measured on one core; empty when nothing was.
    """
    single = matching_times_us(timing.calls, alone)
    rows: list[dict[str, Value]] = []
    for position, (call, single_us) in enumerate(zip(timing.calls, single, strict=True)):
        work = work_of(call.kernel)
        gflops = 2 * work.macs / call.time_us / 1e3
        rows.append(
            {
                "network": network,
                "threads": limits.threads,
                "position": position,
                "kernel": call.kernel.name,
                "kind": work.kind,
                "layer_kind": work.layer_kind.value,
                "macs": work.macs,
                "done_macs": work.done_macs,
                "input_bytes": call.input_bytes,
                "weight_bytes": call.weight_bytes,
                "output_bytes": call.output_bytes,
                "time_us": round(call.time_us, 2),
                "gflops": round(gflops, 2) if work.macs else None,
                "peak_share": round(2 * work.done_macs / call.time_us / 1e3 / limits.gflops, 3) if work.macs else None,
                "gb_per_s": round(call.moved_bytes / call.time_us / 1e3, 2),
                "interrupted": round(timing.interrupted, 3),
                "one_thread_us": None if single_us is None else round(single_us, 2),
                "efficiency": None if single_us is None else round(single_us / (limits.threads * call.time_us), 3),
            }
        )
    return rows


def matching_times_us(calls: Sequence[KernelCall], alone: Sequence[KernelCall]) -> list[float | None]:
    """Return the time on one core of what each call computes; None where the networks were compiled differently."""
    if len(calls) != len(alone):
        return [None] * len(calls)
    return [
        single.time_us if single.output_bytes == call.output_bytes else None
        for call, single in zip(calls, alone, strict=True)
    ]


def kind_rows(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return one row for each kind of kernel and number of threads, those that take the most time first."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((whole_number(row, "threads"), str(row["kind"])), []).append(row)
    totals = {count: sum(number(row, "time_us") for row in rows if row["threads"] == count) for count, _ in groups}
    summed = [_kind_row(kind, count, members, totals[count]) for (count, kind), members in groups.items()]
    return sorted(summed, key=lambda row: (whole_number(row, "threads"), -number(row, "time_ms")))


def _kind_row(kind: str, threads: int, rows: Sequence[Row], total_us: float) -> dict[str, Value]:
    time_us, macs = sum(number(row, "time_us") for row in rows), sum(whole_number(row, "macs") for row in rows)
    moved = sum(whole_number(row, key) for row in rows for key in ("input_bytes", "weight_bytes", "output_bytes"))
    return {
        "kind": kind,
        "threads": threads,
        "kernels": len(rows),
        "time_ms": round(time_us / 1e3, 3),
        "time_share": round(time_us / total_us, 3),
        "gflops": round(2 * macs / time_us / 1e3, 1) if macs else None,
        "peak_share": _median_by_time(rows, "peak_share"),
        "gb_per_s": round(moved / time_us / 1e3, 1),
        "efficiency": _median_by_time(rows, "efficiency", "one_thread_us"),
        "interrupted": _median_by_time(rows, "interrupted"),
    }


def _median_by_time(rows: Sequence[Row], key: str, weight: str = "time_us") -> float | None:
    pairs = [(number(row, key), number(row, weight)) for row in rows if row[key] is not None]
    return weighted_median(pairs) if pairs else None


def weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the smallest value at which values up to it have half of the weight; pairs are (value, weight)."""
    half, reached = sum(weight for _, weight in pairs) / 2, 0.0
    for value, weight in sorted(pairs):
        reached += weight
        if reached >= half:
            return value
    raise ValueError("a median needs at least one value")


def limit_values(limits: CoreLimits) -> dict[str, Value]:
    """Return what some cores can do, for the summary of a JSON file."""
    name = f"threads_{limits.threads}"
    rates = {f"{name}_{level.lower()}_gb_per_s": rate for level, rate in limits.gb_per_s.items()}
    return {f"{name}_peak_gflops": limits.gflops, **rates}


def whole_number(row: Row, key: str) -> int:
    """Return a count."""
    value = row[key]
    assert isinstance(value, int)
    return value


def number(row: Row, key: str) -> float:
    """Return a measured value."""
    value = row[key]
    assert isinstance(value, (int, float))
    return float(value)
