"""Tables in plain text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(rows: Sequence[Sequence[str]], numbers: Collection[int], has_total: bool = False) -> str:
    """Return rows as lines.

    Parameters
    ----------
    rows : sequence of sequence of str
        Titles, then rows of as many cells.
    numbers : collection of int
        Columns that are set flush right.
    has_total : bool
        Whether the last row stands below a rule.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, numbers) for row in rows]
    rule = "-" * max(map(len, lines))
    end = len(lines) - 1 if has_total else len(lines)
    return "\n".join([lines[0], rule, *lines[1:end], *([rule, lines[-1]] if has_total else [])])


def _line(row: Sequence[str], widths: Sequence[int], numbers: Collection[int]) -> str:
    cells = [
        text.rjust(width) if column in numbers else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
