"""What the counted instructions say together: ratios, geometric mean, and the table for people."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean

import typer
from environment import Row, Value, print_rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return cospipe's instructions divided by ncnn's, by model, where both were measured."""
    counts = {(row["model"], row["runtime"]): row["instructions"] for row in rows}
    models = dict.fromkeys(str(row["model"]) for row in rows)
    pairs = {model: (counts.get((model, "cospipe")), counts.get((model, "ncnn"))) for model in models}
    return {
        model: ours / theirs
        for model, (ours, theirs) in pairs.items()
        if isinstance(ours, int) and isinstance(theirs, int)
    }


def summarise(rows: Sequence[Row]) -> dict[str, Value]:
    """Return the figures the rows are taken for; below 1 cospipe executes less. None where nothing can be compared.

    * ``cospipe_vs_ncnn``: geometric mean, over the models both ran, of cospipe's instructions divided by ncnn's;
      ``highest_cospipe_vs_ncnn`` the largest.
    * ``models_compared``: how many these are.
    """
    values = ratios(rows).values()
    return {
        "models_compared": len(values),
        "cospipe_vs_ncnn": round(geometric_mean(values), 4) if values else None,
        "highest_cospipe_vs_ncnn": round(max(values), 4) if values else None,
    }


def print_report(rows: Sequence[Row]) -> None:
    """Print the table and the summary."""
    if not rows:
        return
    print_rows(f"One inference on one thread of a {rows[0]['mcpu']}", _table_rows(rows))
    for name, value in summarise(rows).items():
        typer.echo(f"{name.replace('_', ' ')}: {'-' if value is None else value}")


def _table_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with cospipe's instructions divided by ncnn's, and without what all have in common."""
    compared = ratios(rows)
    return [
        {
            **{key: value for key, value in row.items() if key != "mcpu"},
            "vs_ncnn": compared.get(str(row["model"])) if row["runtime"] == "cospipe" else None,
        }
        for row in rows
    ]
