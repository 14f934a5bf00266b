"""Writing the report: ``index.html``, and the exploration as JSON beside it."""

from __future__ import annotations

import os
from pathlib import Path

from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.exploration import Exploration
from cospipe.ir.soc import Soc
from cospipe.prediction import Prediction

PAGE_NAME = "index.html"
EXPLORATION_NAME = "exploration.json"


def write_report(folder: Path | str, exploration: Exploration, prediction: Prediction, soc: Soc) -> Path:
    """Write an exploration as one self-contained HTML page, with its data as JSON beside it.

    Each file is there whole or not at all.

    Parameters
    ----------
    folder : Path or str
        Where ``index.html`` and ``exploration.json`` go; it is made if need be.
    exploration : Exploration
        What was found.
    prediction : Prediction
        The network's layers, and their times on every core configuration.
    soc : Soc
        The chip.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UsageError
        When the folder cannot be written to.
    CospipeError
        When Plotly is not installed.
    """
    check_can_write(folder)
    from cospipe.report.page import page

    files = {
        EXPLORATION_NAME: exploration.model_dump_json(indent=2) + "\n",
        PAGE_NAME: page(exploration, prediction, soc),
    }
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(Path(folder) / name, text)
    except OSError as error:
        raise UsageError(f"The report cannot be written to {str(folder)!r}: {error.strerror}.") from error
    return Path(folder) / PAGE_NAME


def check_can_write(folder: Path | str) -> None:
    """Check what can be known before a long exploration begins.

    Raises
    ------
    UsageError
        When there is something else than a folder.
    CospipeError
        When Plotly is not installed.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise UsageError(f"{str(folder)!r} is a file; name a folder for the report.")
    try:
        import plotly  # noqa: F401
    except ModuleNotFoundError as error:
        raise CospipeError("The report needs Plotly; install it with: pip install 'cospipe[report]'") from error


def _write(file: Path, text: str) -> None:
    scratch = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
