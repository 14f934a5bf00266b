"""What the rows of the fine-tuning benchmark say together, beside the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from environment import Row, Value

_SHOWN = (
    *("task", "method", "selection", "trainable_parameters", "accuracy_mean", "accuracy_sd", "learning_rate"),
    *("step_ms", "peak_mb", "file_bytes"),
)


def table_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the columns for people."""
    shown = [{key: row[key] for key in _SHOWN} for row in rows]
    if any(row["note"] for row in rows):
        return [{**line, "note": row["note"]} for line, row in zip(shown, rows, strict=True)]
    return shown


def summarise(rows: Sequence[Row]) -> dict[str, Value]:
    """Return how ``sdctft`` does beside FourierFT and LoRA of rank 1: accuracy by task, then time and memory.

    Times and memory are those of the first task that has them.
    """
    by_task: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_task.setdefault(str(row["task"]), {})[str(row["method"])] = row
    summary: dict[str, Value] = {}
    for task, methods in by_task.items():
        for other in ("fourierft", "lora1", "head"):
            summary[f"{task}_accuracy_sdctft_minus_{other}"] = _difference(methods, other)
    timed = next((methods for methods in by_task.values() if _all_have(methods, ("sdctft",), "step_ms")), {})
    summary["step_vs_lora1"] = _ratio(timed, "step_ms", "lora1")
    summary["overhead_vs_fourierft"] = _overhead_ratio(timed)
    summary["peak_vs_lora1"] = _ratio(timed, "peak_mb", "lora1")
    return {key: value for key, value in summary.items() if value is not None}


def _difference(methods: Mapping[str, Row], other: str) -> float | None:
    if not _all_have(methods, ("sdctft", other), "accuracy_mean"):
        return None
    return round(_number(methods["sdctft"], "accuracy_mean") - _number(methods[other], "accuracy_mean"), 4)


def _ratio(methods: Mapping[str, Row], field: str, other: str) -> float | None:
    if not _all_have(methods, ("sdctft", other), field):
        return None
    return round(_number(methods["sdctft"], field) / _number(methods[other], field), 4)


def _overhead_ratio(methods: Mapping[str, Row]) -> float | None:
    """Return what sdctft adds to the frozen network's step divided by what FourierFT adds."""
    if not _all_have(methods, ("sdctft", "fourierft"), "step_ms"):
        return None
    ours, theirs = (
        _number(methods[method], "step_ms") - _number(methods[method], "frozen_step_ms")
        for method in ("sdctft", "fourierft")
    )
    return round(ours / theirs, 4) if theirs > 0 else None


def _all_have(methods: Mapping[str, Row], names: Sequence[str], field: str) -> bool:
    return all(name in methods and methods[name].get(field) is not None for name in names)


def _number(row: Row, field: str) -> float:
    return float(row[field] or 0)
