"""Files that PyTorch writes: exported programs, and TorchScript as older tvmc took it."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from cospipe.ir.errors import CaptureError, UsageError, first_line

_OF_PROGRAM, _OF_SCRIPT = "archive_format", "constants.pkl"


def read_program(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[ExportedProgram, tuple[str, ...]]:
    """Read a file of PyTorch as an exported program; return also what its inputs are called if it does not say itself.

    Parameters
    ----------
    path : Path
        What ``torch.export.save`` or ``torch.jit.save`` has written.
    shapes : mapping of str to sequence of int
        Sizes of the inputs, in their order; TorchScript needs them.

    Raises
    ------
    UsageError
        When TorchScript comes without shapes.
    CaptureError
        When the file holds something else, or cannot be read.
    """
    members = _members(path)
    if _OF_PROGRAM in members or path.suffix == ".pt2":
        return _exported(path), ()
    if _OF_SCRIPT in members:
        return _converted(path, shapes), tuple(shapes)
    raise CaptureError(
        f"{path} holds weights or a pickled module, not a network; write one with"
        " torch.export.save(torch.export.export(model, inputs), 'model.pt2')."
    )


def _members(path: Path) -> set[str]:
    """Return the names of the files in an archive of PyTorch, without its folder."""
    if not zipfile.is_zipfile(path):
        raise CaptureError(
            f"{path} is no archive that PyTorch 1.6 or later has written; write one with"
            " torch.export.save(torch.export.export(model, inputs), 'model.pt2')."
        )
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2] for name in archive.namelist()}


def _exported(path: Path) -> ExportedProgram:
    try:
        with _without_logs(), path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:
        raise CaptureError(f"{path} is not a program saved by torch.export.save: {first_line(error)}.") from error


def _converted(path: Path, shapes: Mapping[str, Sequence[int]]) -> ExportedProgram:
    from torch._export.converter import TS2EPConverter  # PyTorch's only way out of TorchScript

    if not shapes:
        raise UsageError(
            f"{path} is TorchScript, which does not know the shapes of its inputs; give them in order, for example"
            ' --input-shapes "input0:[1,3,224,224]".'
        )
    if dynamic := [name for name, shape in shapes.items() if min(shape, default=1) < 1]:
        raise UsageError(f"{path} is TorchScript, whose sizes must be known; {', '.join(dynamic)} has others.")
    inputs = tuple(torch.zeros(tuple(shape)) for shape in shapes.values())
    try:
        with _without_logs():
            module = torch.jit.load(path).eval()  # type: ignore[no-untyped-call]
            converted = TS2EPConverter(module, inputs, {}).convert()
            return torch.export.export(converted.module(), inputs)  # the converter leaves sizes open
    except Exception as error:
        raise CaptureError(
            f"{path} is TorchScript that PyTorch cannot convert ({first_line(error)}); write the model with"
            " torch.export.save instead."
        ) from error


@contextmanager
def _without_logs() -> Iterator[None]:
    # PyTorch logs pages of traceback for what is told here in one sentence
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
