"""One compiled stage, loaded and ready to be called by the thread that owns its cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cospipe.backends.runtime.tvm_runtime import load_runtime
from cospipe.backends.runtime.weights import Array, aligned, map_tensors
from cospipe.ir.errors import BundleError, CospipeError, first_line
from cospipe.ir.manifest import StageFiles

_CPU_DEVICE, _POOLED_ALLOCATOR = 1, 2


class StageExecutable:
    """A stage library with its weights.

    Load and call it in the thread that runs it: TVM's thread pool belongs to the calling thread.

    Parameters
    ----------
    files : StageFiles
        The stage's part of the manifest.
    library, weights : Path
        Absolute paths of its library and its safetensors file.

    Raises
    ------
    BundleError
        When a weight is missing, or the library cannot be loaded.
    """

    def __init__(self, files: StageFiles, library: Path, weights: Path) -> None:
        self.files = files
        tensors = map_tensors(weights)
        if missing := [name for name in files.weight_names if name not in tensors]:
            raise BundleError(f"{weights.name} lacks the weights {', '.join(missing)} of {files.name}.")
        self._weights = [as_tensor(tensors[name]) for name in files.weight_names]
        self._main = _load_main(library)

    def call(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run the stage on TVM tensors by value name; return its outputs as TVM tensors by value name."""
        results = self._main(*(values[spec.name] for spec in self.files.inputs), *self._weights)
        return dict(zip((spec.name for spec in self.files.outputs), results, strict=True))

    def warm_up(self) -> None:
        """Run the stage once on zeros, so that pages, buffers and threads exist before the first frame."""
        self.call({spec.name: as_tensor(np.zeros(spec.shape, spec.dtype)) for spec in self.files.inputs})


def _load_main(library: Path) -> Any:
    try:
        machine = load_runtime().load_module(str(library)).get_function("vm_load_executable")()
        machine.get_function("vm_initialization")(_CPU_DEVICE, 0, _POOLED_ALLOCATOR, _CPU_DEVICE, 0, _POOLED_ALLOCATOR)
        return machine.get_function("main")
    except CospipeError:
        raise
    except Exception as error:
        raise BundleError(f"The library {library.name} cannot be loaded: {first_line(error)}.") from error


def as_tensor(array: Array) -> Any:
    """Return an array as a TVM tensor that shares its memory; a misaligned array is copied."""
    return load_runtime().from_dlpack(aligned(array))


def to_numpy(tensors: Mapping[str, Any], names: Sequence[str]) -> dict[str, Array]:
    """Return TVM tensors as numpy arrays that share their memory."""
    return {name: np.from_dlpack(tensors[name]) for name in names}
