"""What every benchmark shares: the machine and versions it ran on, and how its rows are written."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

Value = str | int | float | bool | None
Row = Mapping[str, Value]

_PACKAGES = ("cospipe", "apache-tvm", "torch", "networkx", "numpy")


def environment(packages: Sequence[str] = ()) -> dict[str, Value]:
    """Return the versions of Python and of the packages that matter, with some more, and the processor."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in (*_PACKAGES, *packages)},
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
    }


def write_rows(
    rows: Sequence[Row], file: str, packages: Sequence[str] = (), summary: Mapping[str, Value] | None = None
) -> None:
    """Write ``{"environment": {...}, "rows": [...]}`` to a file, or to standard output for ``-``.

    ``packages`` are further ones whose versions matter, ``summary`` comes between the two. The file is there whole or
    not at all.
    """
    parts = {"environment": environment(packages), **({"summary": summary} if summary else {}), "rows": list(rows)}
    text = json.dumps(parts, indent=2)
    if file == "-":
        sys.stdout.write(f"{text}\n")
        return
    scratch = Path(f"{file}.new")
    scratch.write_text(f"{text}\n", encoding="utf-8")
    scratch.replace(file)


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table for people."""
    table = Table(title=title, box=SIMPLE)
    for key in rows[0]:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # columns that are cut off would hide figures; a narrow terminal may wrap the lines instead
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)


def _check_json(file: str) -> str:
    if Path(file).parent.is_dir():
        return file
    raise typer.BadParameter(f"There is no folder {str(Path(file).parent)!r}; create it first.")


JsonFile = Annotated[
    str,
    typer.Option("--json", callback=_check_json, help="Write the rows to this file as JSON; - is standard output."),
]
"""The option that every benchmark has; empty for a table."""


def _cell(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """Return the processor's model name; Linux tells it, ``platform.processor()`` is often empty there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "Hardware"))]
    return names[0] if names else platform.processor() or platform.machine()
