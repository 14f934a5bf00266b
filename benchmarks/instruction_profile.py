"""Which functions the counted instructions belong to."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

from environment import Row

from cospipe.backends.emulator.elf_functions import ElfFunctions
from cospipe.backends.emulator.instruction_counter import Counts, Report


def profile_rows(report: Report, functions: int) -> list[Row]:
    """Return the functions that execute most instructions, most first, and a last row for all others.

    Parameters
    ----------
    report : Report
        What was counted; the files it names must still be there.
    functions : int
        How many to list.

    Returns
    -------
    list of dict
        ``function``, ``percent`` of all instructions, the counts, and ``per_fma`` (instructions).
    """
    by_function = counts_by_function(report)
    ranked = sorted(by_function, key=lambda name: by_function[name].instructions, reverse=True)
    listed = {name: by_function[name] for name in ranked[:functions]}
    if rest := ranked[functions:]:
        listed[f"{len(rest)} others"] = sum((by_function[name] for name in rest), start=Counts())
    return [_row(name, counts, report.total.instructions) for name, counts in listed.items()]


def _row(name: str, counts: Counts, all_instructions: int) -> Row:
    return {
        "function": name,
        "percent": round(100 * counts.instructions / all_instructions, 2),
        "instructions": counts.instructions,
        "fma": counts.fma,
        "loads": counts.loads,
        "stores": counts.stores,
        "per_fma": round(counts.instructions / counts.fma, 3) if counts.fma else None,
    }


def counts_by_function(report: Report) -> dict[str, Counts]:
    """Return what each function executed; code outside any file counts as ``no file``."""
    functions = cache(lambda file: ElfFunctions(Path(file)))
    counts: dict[str, Counts] = defaultdict(Counts)
    for file, offset_bytes, block in report.located():
        name = functions(file).at(offset_bytes) if Path(file).is_file() else "no file"
        counts[name] += block.counts
    return counts
