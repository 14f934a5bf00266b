"""One compiled stage, loaded and ready to be called by the thread that owns its cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from cospipe.backends.runtime.reasons import reason
from cospipe.backends.runtime.tvm_runtime import load_runtime
from cospipe.ir.errors import BundleError, CospipeError
from cospipe.ir.manifest import StageFiles, WeightArgument
from cospipe.ir.tensor_file import Array, TensorFile, aligned

_CPU_DEVICE, _NAIVE_ALLOCATOR, _POOLED_ALLOCATOR = 1, 1, 2


class StageExecutable:
    """A stage library with its weights, prepared for it.

    Load and call it in the thread that runs it: TVM's thread pool belongs to the calling thread.

    Parameters
    ----------
    files : StageFiles
        The stage's part of the manifest.
    library, weights : Path
        Absolute paths of its library and its safetensors file.
    overrides : mapping of str to array, optional
        Values that take the place of stored weights, by name.

    Raises
    ------
    BundleError
        When a weight is missing, has another shape or cannot be prepared, or the library cannot be loaded.
    """

    def __init__(
        self, files: StageFiles, library: Path, weights: Path, overrides: Mapping[str, Array] | None = None
    ) -> None:
        self.files = files
        self._stored = TensorFile(weights)
        if missing := [name for name in files.weight_names if name not in self._stored.entries]:
            raise BundleError(f"{weights.name} lacks the weights {', '.join(missing)} of {files.name}.")
        self._module = _load(library)
        if files.shares_by_speed:
            _share_by_speed(files, self._module)
        self._overrides = dict(overrides or {})
        self.weights = self._prepare(self._overrides, files.weight_arguments)
        self._main = _main(files, self._module)

    def twin(self) -> StageExecutable:
        """Return another executable, for a thread of its own, that shares the library and the weights with this one."""
        twin = copy(self)
        twin._main = _main(self.files, self._module)
        return twin

    def call(self, values: Mapping[str, Any], weights: Sequence[Any] | None = None) -> dict[str, Any]:
        """Run the stage on TVM tensors by value name; return its outputs as TVM tensors by value name.

        ``weights`` are others than those it was loaded with, from :meth:`weights_with`.
        """
        inputs = (values[spec.name] for spec in self.files.inputs)
        results = self._main(*inputs, *(self.weights if weights is None else weights))
        return dict(zip((spec.name for spec in self.files.outputs), results, strict=True))

    def weights_with(self, overrides: Mapping[str, Array]) -> list[Any]:
        """Return what ``main`` takes behind its inputs, with other values for some stored weights.

        Only what is made of changed values is made anew; the rest is shared with :attr:`weights`. May be called while
        another thread runs the stage.
        """
        changed = {name for name in {**self._overrides, **overrides} if not self._is_loaded(name, overrides)}
        affected = [argument for argument in self.files.weight_arguments if changed.intersection(argument.weights)]
        made = dict(zip(affected, self._prepare(overrides, affected), strict=True))
        own = zip(self.files.weight_arguments, self.weights, strict=True)
        return [made.get(argument, weight) for argument, weight in own]

    def _is_loaded(self, name: str, overrides: Mapping[str, Array]) -> bool:
        """Tell whether a weight has the value in these overrides that it was loaded with."""
        ours, theirs = (
            values[name] if name in values else self._stored.tensor(name) for values in (self._overrides, overrides)
        )
        return np.array_equal(ours, theirs)

    def _prepare(self, overrides: Mapping[str, Array], arguments: Sequence[WeightArgument]) -> list[Any]:
        """Return some weight arguments; made one after the other, so that few weights are in memory twice."""
        # What the naive allocator takes for steps in between goes back to the system; a pool would keep it.
        machine = _machine(self.files, self._module, _NAIVE_ALLOCATOR)
        return [_prepared(self.files, machine, argument, self._stored, overrides) for argument in arguments]

    def warm_up(self) -> None:
        """Run the stage once on zeros, so that pages, buffers and threads exist before the first frame."""
        self.call({spec.name: as_tensor(np.zeros(spec.shape, spec.dtype)) for spec in self.files.inputs})


def _load(library: Path) -> Any:
    try:
        return load_runtime().load_module(str(library))
    except CospipeError:
        raise
    except Exception as error:
        raise BundleError(f"The library {library.name} cannot be loaded: {reason(error)}.") from error


def _share_by_speed(files: StageFiles, module: Any) -> None:
    try:
        module.get_function("share_by_speed", query_imports=True)()
    except Exception as error:
        raise BundleError(f"The library {files.library} cannot be loaded: {reason(error)}.") from error


def _machine(files: StageFiles, module: Any, allocator: int) -> Any:
    try:
        machine = module.get_function("vm_load_executable")()
        machine.get_function("vm_initialization")(_CPU_DEVICE, 0, allocator, _CPU_DEVICE, 0, allocator)
        return machine
    except Exception as error:
        raise BundleError(f"The library {files.library} cannot be loaded: {reason(error)}.") from error


def _main(files: StageFiles, module: Any) -> Any:
    machine = _machine(files, module, _POOLED_ALLOCATOR)
    takes = machine.get_function("get_function_arity")("main")
    described = len(files.inputs) + len(files.weight_arguments)
    if takes != described:
        raise BundleError(f"The library {files.library} takes {takes} tensors, its manifest describes {described}.")
    return machine.get_function("main")


def _prepared(
    files: StageFiles, machine: Any, argument: WeightArgument, stored: TensorFile, overrides: Mapping[str, Array]
) -> Any:
    tensors = [as_tensor(overrides[name] if name in overrides else stored.tensor(name)) for name in argument.weights]
    names = ", ".join(argument.weights)
    try:
        result = machine.get_function(argument.function)(*tensors)[0] if argument.function else tensors[0]
    except Exception as error:
        raise BundleError(f"{files.library} could not prepare {names} of {files.name}: {reason(error)}.") from error
    if (tuple(result.shape), str(result.dtype)) != (argument.tensor.shape, argument.tensor.dtype):
        found = f"{tuple(result.shape)} {result.dtype}"
        raise BundleError(f"{names} of {files.name} became {found}, main takes {argument.tensor}; compile it again.")
    if argument.function:
        for name in argument.weights:
            stored.release(name)
    return result


def as_tensor(array: Array) -> Any:
    """Return an array as a TVM tensor that shares its memory; a misaligned array is copied."""
    return load_runtime().from_dlpack(aligned(array))


def to_numpy(tensors: Mapping[str, Any], names: Sequence[str]) -> dict[str, Array]:
    """Return TVM tensors as numpy arrays that share their memory."""
    return {name: np.from_dlpack(tensors[name]) for name in names}
