"""``fit``: a latency regression from profiles, and how far it is off on networks it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cospipe.ir.cross_validation import HeldOut, held_out_predictions
from cospipe.ir.errors import UsageError, first_line, several
from cospipe.ir.latency import LatencySource
from cospipe.ir.measured_latency import board_problems
from cospipe.ir.profile import MeasuredLayer, Profile, read_profile
from cospipe.ir.regression_file import write_regression
from cospipe.ir.regression_latency import Cores, RegressionLatencyModel, fit_regression
from cospipe.ir.soc import Soc, load_soc, soc_names

Rows = Sequence[MeasuredLayer]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, and a row of figures for each core type and number of cores."""

    model: RegressionLatencyModel
    rows: list[dict[str, Any]]


def run_fit(files: Sequence[Path], output: Path, socs: Sequence[str] = ()) -> Fitted:
    """Fit a regression to all layers of some profiles and write it.

    Parameters
    ----------
    files : sequence of Path
        Profiles of one or several boards.
    output : Path
        The model.
    socs : sequence of str
        TOML files of boards that the profiles name and that are not described here.

    Returns
    -------
    Fitted
        Shares of errors are None where nothing could be held out.

    Raises
    ------
    UsageError
        When a file is no profile, the profiles do not fit together, a board is not described, or there are too few
        layers.
    """
    profiles = [read_profile(file) for file in files]
    _check_alike(files, profiles)
    boards = _boards(profiles, socs)
    layers = {name: _layers(profiles, name) for name in boards}
    held_out = list(chain.from_iterable(_held_out(name, layers, soc) for name, soc in boards.items()))
    rows = [_row(cores, group) for cores, group in sorted(_by_cores(held_out, layers).items())]
    only_soc = next(iter(boards.values())) if len(boards) == 1 else None
    everything = list(chain.from_iterable(layers.values()))
    model = fit_regression(everything, only_soc, profiles[0].kernel_library, check=False)
    model = replace(model, errors=_errors(rows))
    _write(model, output, tuple(boards))
    return Fitted(model, rows)


def _check_alike(files: Sequence[Path], profiles: Sequence[Profile]) -> None:
    first = profiles[0]
    problems = [
        f"{file} holds {profile.source} times of {profile.kernel_library}"
        for file, profile in zip(files, profiles, strict=True)
        if (profile.source, profile.kernel_library) != (first.source, first.kernel_library)
    ]
    if problems:
        here = f"{files[0]} holds {first.source} times of {first.kernel_library}"
        raise UsageError(several("One model cannot be fitted to times of different kinds", [here, *problems]))


def _boards(profiles: Sequence[Profile], files: Sequence[str]) -> dict[str, Soc]:
    """Return the description of each board that was profiled."""
    described = {soc.name: soc for soc in map(load_soc, files)}
    names = list(dict.fromkeys(profile.soc for profile in profiles))
    unknown = [name for name in names if name not in described and name not in soc_names()]
    if unknown:
        raise UsageError(f"No SoC description is called {' or '.join(unknown)}; name the board's TOML file with --soc.")
    boards = {name: described.get(name) or load_soc(name) for name in names}
    problems = [
        problem
        for profile in profiles
        for problem in board_problems(profile, boards[profile.soc], LatencySource(profile.source))
    ]
    if problems:
        raise UsageError(several("These profiles are not of the boards that are described here", problems))
    return boards


def _layers(profiles: Sequence[Profile], board: str) -> list[MeasuredLayer]:
    found = chain.from_iterable(profile.layers() for profile in profiles if profile.soc == board)
    return [row for row in found if row.time_us > 0]


def _held_out(board: str, layers: Mapping[str, Rows], soc: Soc) -> list[HeldOut]:
    """Predict every network of a board from all others; what it took on other boards is left out, too."""
    ours = layers[board]
    others = list(chain.from_iterable(rows for name, rows in layers.items() if name != board))
    networks = {row.network for row in ours}

    def fit(kept: Rows) -> RegressionLatencyModel:
        left_out = networks - {row.network for row in kept}
        return fit_regression([*kept, *(row for row in others if row.network not in left_out)], soc, check=False)

    return held_out_predictions(ours, fit)


def _by_cores(held_out: Iterable[HeldOut], layers: Mapping[str, Rows]) -> dict[Cores, list[HeldOut]]:
    groups: dict[Cores, list[HeldOut]] = {
        (row.core_type, row.configuration.cores): [] for row in chain.from_iterable(layers.values())
    }
    for one in held_out:
        groups[one.row.core_type, one.row.configuration.cores].append(one)
    return groups


def _row(cores: Cores, held_out: Sequence[HeldOut]) -> dict[str, Any]:
    errors = [one.error for one in held_out]
    sums = _sum_errors(held_out)
    return {
        "core_type": cores[0],
        "threads": cores[1],
        "networks": len({one.row.network for one in held_out}),
        "layers": len(held_out),
        "layer_median_error": _figure(errors, np.median),
        "layer_p90_error": _figure(errors, lambda values: np.percentile(values, 90)),
        "sum_median_error": _figure(sums, np.median),
        "sum_worst_error": _figure(sums, np.max),
    }


def _sum_errors(held_out: Sequence[HeldOut]) -> list[float]:
    """Return by how much the sum of each network is off; nothing when there was only one, in parts."""
    sums: dict[str, tuple[float, float]] = {}
    for one in held_out:
        if one.group != one.row.network:
            return []
        predicted_us, measured_us = sums.get(one.group, (0.0, 0.0))
        sums[one.group] = (predicted_us + one.predicted_us, measured_us + one.row.time_us)
    return [abs(predicted_us / measured_us - 1) for predicted_us, measured_us in sums.values()]


def _figure(values: Sequence[float], statistic: Callable[[Sequence[float]], Any]) -> float | None:
    return round(float(statistic(values)), 4) if values else None


def _errors(rows: Sequence[Mapping[str, Any]]) -> dict[Cores, float]:
    return {
        (row["core_type"], row["threads"]): row["layer_median_error"]
        for row in rows
        if row["layer_median_error"] is not None
    }


def _write(model: RegressionLatencyModel, output: Path, boards: tuple[str, ...]) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_regression(model, output, boards)
    except OSError as error:
        raise UsageError(f"The latency model {str(output)!r} cannot be written: {first_line(error)}.") from error
