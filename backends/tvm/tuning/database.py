"""MetaSchedule's JSON database: two files in a directory, read here line by line.

A line that was cut off when a process was killed does not count, and what is damaged is told in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule as ms

from cospipe.ir.errors import UsageError, first_line

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
_TVM_FFI_FIXED_BY = "python -m pip install 'apache-tvm-ffi<0.1.15'"


def read_database(directory: Path) -> list[Any]:
    """Return every record of MetaSchedule's JSON database, for any target; those of kernels that failed, too.

    Raises
    ------
    UsageError
        When a file is damaged.
    """
    workloads = [_workload(line, directory) for line in _lines(directory / WORKLOADS)]
    return [_record(line, workloads, directory / RECORDS, n) for n, line in enumerate(_lines(directory / RECORDS), 1)]


def workload_hash(record: Any) -> str:
    """Return MetaSchedule's hash of what a record's kernel computes."""
    return str(record.workload.as_json()[0])


def check_is_records(directory: Path) -> None:
    """Check that a path is a directory of records.

    Raises
    ------
    UsageError
        Saying what it is instead.
    """
    if directory.is_file():
        raise UsageError(
            f"{directory} is a file: the log of autotvm or the auto-scheduler, perhaps, which TVM 0.27 cannot read."
            " Name a directory that tvmc tune -o has written; tune the model again to get one."
        )
    if not directory.is_dir():
        raise UsageError(f"There is no directory of tuning records {directory}; write one with tvmc tune FILE -o DIR.")
    if missing := [name for name in (WORKLOADS, RECORDS) if not (directory / name).is_file()]:
        raise UsageError(
            f"{directory} holds no tuning records: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'}"
            " missing; name a directory that tvmc tune -o has written."
        )


def check_can_store() -> None:
    """Check that TVM can store kernels as JSON; tvm-ffi 0.1.15 ends the process when it tries.

    Raises
    ------
    UsageError
        With the command that mends it.
    """
    installed = version("apache-tvm-ffi")
    if tuple(int(part) for part in installed.split(".")[:3] if part.isdecimal()) >= (0, 1, 15):
        raise UsageError(
            f"Tuning records cannot be read or written with apache-tvm-ffi {installed}, which crashes on them;"
            f" install an older one: {_TVM_FFI_FIXED_BY}"
        )


def _lines(file: Path) -> list[str]:
    """Return the whole lines of a file; one that is still being written, or was cut off, does not count."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from error
    return [line for line in text.split("\n")[: text.count("\n")] if line.strip()]


def _workload(line: str, directory: Path) -> Any:
    try:
        return ms.database.Workload.from_json(json.loads(line))
    except Exception as error:  # whatever TVM throws at text that is no workload of its version
        raise _damaged(directory / WORKLOADS, first_line(error)) from error


def _record(line: str, workloads: Sequence[Any], file: Path, number: int) -> Any:
    try:
        index, stored = json.loads(line)
        return ms.database.TuningRecord.from_json(stored, workloads[index])
    except Exception as error:
        raise _damaged(file, f"line {number}: {first_line(error)}") from error


def _damaged(file: Path, problem: str) -> UsageError:
    return UsageError(
        f"{file} is damaged, or was written by another version of TVM ({problem}); tune again into a new directory."
    )
