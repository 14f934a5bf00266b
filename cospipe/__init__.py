"""cospipe: PyTorch networks as pinned pipelines over every core of an ARM big.LITTLE chip.

The compiler's functions are imported when they are first used, so that running a bundle loads neither torch nor TVM's
compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import CospipeError

if TYPE_CHECKING:
    from cospipe.backends.bundle import Bundle, open_bundle
    from cospipe.backends.runtime.runner import PipelineRunner
    from cospipe.backends.verify import verify_bundle
    from cospipe.front_door import Optimized, exchange_weights, optimize
    from cospipe.ir.soc import load_soc
    from cospipe.prediction import Prediction, predict

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "CospipeError",
    "Optimized",
    "PipelineRunner",
    "Prediction",
    "__version__",
    "exchange_weights",
    "load_soc",
    "open_bundle",
    "optimize",
    "predict",
    "verify_bundle",
]

_HOMES = {
    "Bundle": "cospipe.backends.bundle",
    "Optimized": "cospipe.front_door",
    "PipelineRunner": "cospipe.backends.runtime.runner",
    "Prediction": "cospipe.prediction",
    "exchange_weights": "cospipe.front_door",
    "load_soc": "cospipe.ir.soc",
    "open_bundle": "cospipe.backends.bundle",
    "optimize": "cospipe.front_door",
    "predict": "cospipe.prediction",
    "verify_bundle": "cospipe.backends.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cospipe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
