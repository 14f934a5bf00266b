"""cospipe: PyTorch networks as pinned pipelines over every core of an ARM big.LITTLE chip.

The compiler's functions are imported when they are first used, so that running a bundle loads neither torch nor TVM's
compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import CospipeError

if TYPE_CHECKING:
    from cospipe.backends.board.options import RunnerOptions
    from cospipe.backends.bundle import Bundle, open_bundle
    from cospipe.backends.runtime.runner import PipelineRunner
    from cospipe.backends.verify import verify_bundle
    from cospipe.front_door import Optimized, adapter_reference, exchange_weights, optimize
    from cospipe.ir.adapter_file import read_adapter
    from cospipe.ir.eager_adapters import Adapters, adapt, load_adapter
    from cospipe.ir.soc import load_soc
    from cospipe.ir.spectral_config import SpectralConfig
    from cospipe.prediction import Prediction, predict

__version__ = "0.1.0"
__all__ = [
    "Adapters",
    "Bundle",
    "CospipeError",
    "Optimized",
    "PipelineRunner",
    "Prediction",
    "RunnerOptions",
    "SpectralConfig",
    "__version__",
    "adapt",
    "adapter_reference",
    "exchange_weights",
    "load_adapter",
    "load_soc",
    "open_bundle",
    "optimize",
    "predict",
    "read_adapter",
    "verify_bundle",
]

_HOMES = {
    "Adapters": "cospipe.ir.eager_adapters",
    "Bundle": "cospipe.backends.bundle",
    "Optimized": "cospipe.front_door",
    "PipelineRunner": "cospipe.backends.runtime.runner",
    "Prediction": "cospipe.prediction",
    "RunnerOptions": "cospipe.backends.board.options",
    "SpectralConfig": "cospipe.ir.spectral_config",
    "adapt": "cospipe.ir.eager_adapters",
    "adapter_reference": "cospipe.front_door",
    "exchange_weights": "cospipe.front_door",
    "load_adapter": "cospipe.ir.eager_adapters",
    "load_soc": "cospipe.ir.soc",
    "open_bundle": "cospipe.backends.bundle",
    "optimize": "cospipe.front_door",
    "predict": "cospipe.prediction",
    "read_adapter": "cospipe.ir.adapter_file",
    "verify_bundle": "cospipe.backends.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cospipe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
