"""The tvmc command and its Python interface, on TVM 0.27.

``tvmc.load``, ``compile``, ``run`` and ``tune`` do what the commands of the same names do. Nothing heavy is imported
before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import CospipeError as TVMCException
from cospipe.tvmc.missing_packages import MissingPackageError as TVMCImportError

if TYPE_CHECKING:
    from cospipe.backends.tvm.tvmc.result import TVMCResult
    from cospipe.tvmc.api import TVMCModel, TVMCPackage, compile, load
    from cospipe.tvmc.run_command import run
    from cospipe.tvmc.tune_command import tune

__all__ = [
    "TVMCException",
    "TVMCImportError",
    "TVMCModel",
    "TVMCPackage",
    "TVMCResult",
    "compile",
    "load",
    "run",
    "tune",
]

_EXPORTS = {
    "TVMCModel": "cospipe.tvmc.api",
    "TVMCPackage": "cospipe.tvmc.api",
    "TVMCResult": "cospipe.backends.tvm.tvmc.result",
    "compile": "cospipe.tvmc.api",
    "load": "cospipe.tvmc.api",
    "run": "cospipe.tvmc.run_command",
    "tune": "cospipe.tvmc.tune_command",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
