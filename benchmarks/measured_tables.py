"""Reading tables that others measured: CSV files of one folder, each row a mapping of column to text."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from cospipe.ir.errors import UsageError, several

TableRow = dict[str, str]


def read_table(folder: Path, name: str, columns: Collection[str]) -> list[TableRow]:
    """Return the rows of a table.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    name : str
        The file, ``rk3399pro_blocks.csv``.
    columns : collection of str
        Columns that are needed; others may be there.

    Raises
    ------
    UsageError
        When the file is not there or cannot be read, or lacks columns; all of them are named.
    """
    path = folder / name
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The table {str(path)!r} cannot be read: {error}. Name its folder with --data.") from error
    if missing := [repr(column) for column in columns if column not in found]:
        raise UsageError(f"The table {str(path)!r} has no column {', '.join(missing)}.")
    return rows


def number(row: TableRow, column: str, table: str) -> float:
    """Return a cell as a number.

    Raises
    ------
    UsageError
        When it is none, or not positive.
    """
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(several(f"{table}: {column} must be a positive number", [f"{row[column]!r} in {_short(row)}"]))
    return value


def _short(row: TableRow) -> str:
    return ", ".join(str(value) for value in list(row.values())[:5])
