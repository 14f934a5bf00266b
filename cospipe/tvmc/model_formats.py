"""Formats of model files: by name, by the end of a file's name, and those whose front end is gone from TVM."""

from __future__ import annotations

import argparse
from pathlib import Path

from cospipe.ir.errors import CospipeError, UsageError

FORMATS = ("onnx", "pytorch", "pt2", "relax")
_SUFFIXES = {
    ".onnx": "onnx",
    ".pth": "pytorch",
    ".pt": "pytorch",
    ".zip": "pytorch",
    ".pt2": "pt2",
    ".json": "relax",
    ".h5": "keras",
    ".keras": "keras",
    ".pb": "pb",
    ".tflite": "tflite",
    ".pdmodel": "paddle",
    ".relay": "relay",
    ".prototxt": "caffe2",
}
_TO_ONNX = {
    "keras": "python -m tf2onnx.convert --keras FILE --output model.onnx (pip install tf2onnx)",
    "pb": "python -m tf2onnx.convert --graphdef FILE --output model.onnx (pip install tf2onnx)",
    "tflite": "python -m tf2onnx.convert --tflite FILE --output model.onnx (pip install tf2onnx)",
    "paddle": "paddle2onnx --model_dir FOLDER --save_file model.onnx (pip install paddle2onnx)",
    "caffe2": "the exporter of the program that made it",
    "relay": "the exporter of the program that made the model; Relay is gone from TVM",
}


class FrontEndGoneError(CospipeError):
    """A format that TVM 0.27 has no front end for (exit code 5)."""


def model_format(text: str) -> str:
    """Return the name of a format on the command line; also one whose front end is gone, which is told later.

    Raises
    ------
    argparse.ArgumentTypeError
        When there never was such a format.
    """
    if text not in FORMATS and text not in _TO_ONNX:
        raise argparse.ArgumentTypeError(f"there is no format {text!r}; choose from {', '.join(FORMATS)}")
    return text


def format_of(path: Path, named: str | None) -> str:
    """Return the format of a model file: as it was named, else by the end of the file's name.

    Raises
    ------
    FrontEndGoneError
        When TVM cannot read the format any more; the message says how to get ONNX from it.
    UsageError
        When the end of the name tells nothing.
    """
    found = named or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"The format of {path} cannot be told from its name; please specify --model-format, one of"
            f" {', '.join(FORMATS)}."
        )
    if found in _TO_ONNX:
        raise FrontEndGoneError(f"TVM has no front end for {found} any more; make an ONNX file with {_TO_ONNX[found]}.")
    return found
