"""Rows of an interrupted benchmark: written as soon as they are measured, and found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from environment import Row, Value, write_rows

from cospipe.ir.errors import UsageError

MutableRow = dict[str, Value]
FIELDS = (
    *("selection", "trainable_parameters", "accuracy_mean", "accuracy_sd", "seeds", "learning_rate"),
    *("learning_rate_inside_grid", "head_learning_rate", "validation_accuracy"),
    *("step_ms", "frozen_step_ms", "step_min_ms", "frozen_step_min_ms", "peak_mb", "file_bytes", "note"),
)
"""What is measured; ``spectral_finetune.py`` says what it means. None until it is known."""


class Rows:
    """The rows so far; in a file they are there as soon as they are measured.

    Parameters
    ----------
    file : str
        Where the JSON goes; empty for nowhere.
    conditions : mapping of str to value
        What rows of one comparison share.
    earlier : list of rows
        Of an earlier run; those measured under other conditions stay, and are not taken for finished.
    write : callable
        Is given all rows and the file.
    """

    def __init__(
        self,
        file: str,
        conditions: Mapping[str, Value],
        earlier: list[MutableRow],
        write: Callable[[Sequence[Row], str], None] = write_rows,
    ) -> None:
        self.rows = earlier
        self._file, self._conditions, self._write = file, conditions, write

    def row(self, task: str, method: str) -> MutableRow:
        """Return the row of a task and method, new or found."""
        for row in self.rows:
            is_same = all(row.get(key) == value for key, value in self._conditions.items())
            if is_same and (row["task"], row["method"]) == (task, method):
                return row
        self.rows.append({"task": task, "method": method, **dict.fromkeys(FIELDS), **self._conditions})
        return self.rows[-1]

    def save(self) -> None:
        """Write the rows, if they go to a file."""
        if self._file not in ("", "-"):
            self.write()

    def write(self) -> None:
        """Write the rows to the file or standard output."""
        self._write(self.rows, self._file)


def earlier_rows(file: str) -> list[MutableRow]:
    """Return the rows of a JSON file; none when it does not exist."""
    if file in ("", "-"):
        raise UsageError("--resume needs the file of an earlier run: --json FILE")
    if not Path(file).is_file():
        return []
    rows: list[MutableRow] = json.loads(Path(file).read_text(encoding="utf-8"))["rows"]
    return rows
