"""Python packages that only some kinds of models need."""

from __future__ import annotations

from cospipe.ir.errors import CospipeError

_COMMANDS = {
    "onnx": "pip install 'cospipe[onnx]'",
    "onnxslim": "pip install 'cospipe[onnx]'",
    "onnxscript": "pip install onnxscript",
    "torch": "pip install cospipe",
    "torchvision": "pip install torchvision",
    "tvm": "pip install cospipe",
    "networkx": "pip install cospipe",
    "xgboost": "pip install xgboost-cpu",
}


class MissingPackageError(CospipeError):
    """A package that the model at hand needs is not installed (exit code 5)."""


def package_of(error: ModuleNotFoundError) -> MissingPackageError | None:
    """Return what to install for a module that could not be imported; None if it is none that a user leaves out."""
    name = (error.name or "").partition(".")[0]
    if name not in _COMMANDS:
        return None
    return MissingPackageError(f"Package {name} is not installed; install it with: {_COMMANDS[name]}")
