"""A package of one library, loaded where it runs: its weights prepared, its inputs set, run, timed and profiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cospipe.backends.runtime.reasons import reason
from cospipe.backends.tvm.tvmc.package import LibraryPackage
from cospipe.backends.tvm.tvmc.run_sessions import RunSession
from cospipe.backends.tvm.tvmc.timing import ExecutionTimes, Repetitions
from cospipe.ir.errors import BundleError, StageError
from cospipe.ir.manifest import WeightArgument
from cospipe.ir.tensor_file import Array, TensorFile

_CPU_DEVICE, _NAIVE_ALLOCATOR, _POOLED_ALLOCATOR = 1, 1, 2
_IS_TENSOR = -1


class LoadedLibrary:
    """The network of a package, with one frame of inputs.

    Parameters
    ----------
    package : LibraryPackage
        An opened package.
    session : RunSession
        Where it runs.
    inputs : mapping of str to array
        All its inputs by name.

    Raises
    ------
    CospipeError
        When the library cannot be loaded, or its weights cannot be prepared.
    """

    def __init__(self, package: LibraryPackage, session: RunSession, inputs: Mapping[str, Array]) -> None:
        self._name, self._session = package.metadata.model, session
        session.use_threads(package.metadata.threads)
        self._module = session.load(package.shared_library())
        if package.metadata.shares_by_speed:
            self._module.get_function("share_by_speed", query_imports=True)()
        self.machine = self.new_machine()
        self._arguments = [session.tensor(inputs[tensor.name]) for tensor in package.metadata.inputs]
        self._weights = self._prepared_weights(package)
        self.set_inputs(self.machine)

    def new_machine(self, allocator: int = _POOLED_ALLOCATOR) -> Any:
        """Return another virtual machine with the library's functions."""
        try:
            machine = self._module.get_function("vm_load_executable")()
            machine.get_function("vm_initialization")(_CPU_DEVICE, 0, allocator, _CPU_DEVICE, 0, allocator)
        except Exception as error:
            raise BundleError(f"The library of {self._name} cannot be loaded: {reason(error)}.") from error
        return machine

    def set_inputs(self, machine: Any) -> None:
        """Give a virtual machine everything that ``main`` takes."""
        self._attempt(lambda: _set_inputs(machine, "main", (*self._arguments, *self._weights)))

    def run(self) -> list[Array]:
        """Run one frame and return its outputs.

        Raises
        ------
        StageError
            When the network cannot compute with these inputs.
        """
        self.invoke(self.machine)
        return [self._session.array(tensor) for tensor in _outputs(self.machine, "main")]

    def invoke(self, machine: Any) -> None:
        """Let a virtual machine run one frame."""
        self._attempt(lambda: machine.get_function("invoke_stateful")("main"))

    def times(self, repetitions: Repetitions) -> ExecutionTimes:
        """Return how long the network takes."""
        arguments = (*self._arguments, *self._weights)
        return ExecutionTimes(self._session.times_s(self.machine, arguments, repetitions))

    def _prepared_weights(self, package: LibraryPackage) -> list[Any]:
        stored = TensorFile(package.weights)
        machine = self.new_machine(_NAIVE_ALLOCATOR)  # gives back what steps in between take
        return [self._prepared(machine, argument, stored) for argument in package.metadata.weight_arguments]

    def _prepared(self, machine: Any, argument: WeightArgument, stored: TensorFile) -> Any:
        tensors = [self._session.tensor(stored.tensor(name)) for name in argument.weights]
        function = argument.function
        if function is None:
            return tensors[0]
        self._attempt(lambda: _set_inputs(machine, function, tensors))
        self._attempt(lambda: machine.get_function("invoke_stateful")(function))
        for name in argument.weights:
            stored.release(name)
        return _outputs(machine, function)[0]

    def _attempt(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except Exception as error:
            raise StageError(self._name, f"{self._name} could not be run: {reason(error)}.") from error


def _set_inputs(machine: Any, function: str, tensors: Sequence[Any]) -> None:
    machine.get_function("set_input")(function, *tensors)


def _outputs(machine: Any, function: str) -> list[Any]:
    """Return the results of the latest run, which are one tensor or a tuple of them."""
    get_output, count = machine.get_function("get_output"), machine.get_function("get_output_arity")(function)
    if count == _IS_TENSOR:
        return [get_output(function)]
    return [get_output(function, position) for position in range(count)]
