"""Where a package runs: in this process on TVM's runtime alone, or in one on a board, behind TVM's RPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cospipe.backends.runtime.placement import available_cpus
from cospipe.backends.runtime.reasons import reason
from cospipe.backends.runtime.stage import as_tensor
from cospipe.backends.runtime.tvm_runtime import configure_thread_pool, load_runtime
from cospipe.backends.tvm.tvmc.timing import Repetitions
from cospipe.ir.errors import BundleError, RemoteError
from cospipe.ir.tensor_file import Array, aligned_copy

_ANY_CORES = 0


class RunSession(ABC):
    """A process that loads libraries, holds tensors and runs a virtual machine.

    Virtual machines are used through ``set_input``, ``invoke_stateful`` and ``get_output`` only: that is what works
    through RPC, and it works here as well.
    """

    @abstractmethod
    def use_threads(self, threads: int) -> None:
        """Give kernels a pool of some threads, or of as many as there are cores; before the first kernel runs."""

    @abstractmethod
    def load(self, library: Path) -> Any:
        """Return a library as a module.

        Raises
        ------
        CospipeError
            When it cannot be loaded.
        """

    @abstractmethod
    def tensor(self, array: Array) -> Any:
        """Return an array as a tensor of this session; it may share the array's memory."""

    @abstractmethod
    def array(self, tensor: Any) -> Array:
        """Return a tensor of this session as an array of its own memory."""

    @abstractmethod
    def times_s(self, machine: Any, arguments: Sequence[Any], repetitions: Repetitions) -> list[float]:
        """Return times of ``main`` in seconds; the way there and back through RPC does not count."""


class LocalSession(RunSession):
    """The process that this code runs in. All work belongs into one thread: TVM's pools belong to threads."""

    def use_threads(self, threads: int) -> None:
        """Give the calling thread a pool on the cores that this process may use."""
        cpus = available_cpus()
        configure_thread_pool(cpus, min(threads, len(cpus)))

    def load(self, library: Path) -> Any:
        """Return a library as a module."""
        try:
            return load_runtime().load_module(str(library))
        except Exception as error:
            raise BundleError(f"The library {library.name} cannot be loaded: {reason(error)}.") from error

    def tensor(self, array: Array) -> Any:
        """Return an array as a tensor that shares its memory where that is aligned."""
        return as_tensor(array)

    def array(self, tensor: Any) -> Array:
        """Return a copy of a tensor."""
        return np.array(np.from_dlpack(tensor))

    def times_s(self, machine: Any, arguments: Sequence[Any], repetitions: Repetitions) -> list[float]:
        """Return times of ``main`` in seconds."""
        invoke = machine.get_function("invoke_stateful")
        set_input, get_output = machine.get_function("set_input"), machine.get_function("get_output")

        def run() -> None:
            invoke("main")

        def run_end_to_end() -> None:
            set_input("main", *(as_tensor(aligned_copy(np.from_dlpack(argument))) for argument in arguments))
            invoke("main")
            for output in range(machine.get_function("get_output_arity")("main")):
                self.array(get_output("main", output))

        timed = run_end_to_end if repetitions.end_to_end else run
        timed()
        return [_mean_s(timed, repetitions.number) for _ in range(repetitions.repeat)]


def _mean_s(timed: Callable[[], None], number: int) -> float:
    started_s = perf_counter()
    for _ in range(number):
        timed()
    return (perf_counter() - started_s) / number


class BoardSession(RunSession):
    """A process that TVM's RPC server on a board started for this connection.

    Parameters
    ----------
    session : RPCSession
        From :func:`cospipe.backends.tvm.tvmc.boards.connect`.
    address : str
        The board's name in errors.
    """

    def __init__(self, session: Any, address: str) -> None:
        self._session, self._address = session, address
        self.device = session.cpu()

    def use_threads(self, threads: int) -> None:
        """Give the server's thread a pool; TVM takes the fastest cores."""
        self._session.get_function("runtime.config_threadpool")(_ANY_CORES, threads)

    def load(self, library: Path) -> Any:
        """Copy a library to the board and return it as a module."""
        try:
            self._session.upload(str(library))
            return self._session.load_module(library.name)
        except Exception as error:
            raise RemoteError(
                f"The board at {self._address} could not load {library.name}: {reason(error)}. Is the package compiled"
                " for its processor, and is TVM there of the same version as here?"
            ) from error

    def tensor(self, array: Array) -> Any:
        """Return a copy of an array on the board."""
        import tvm

        return tvm.runtime.tensor(np.ascontiguousarray(array), self.device)

    def array(self, tensor: Any) -> Array:
        """Return a copy of a tensor of the board."""
        result: Array = tensor.numpy()
        return result

    def times_s(self, machine: Any, arguments: Sequence[Any], repetitions: Repetitions) -> list[float]:
        """Return times of ``main`` in seconds; end to end, the time that taking over its inputs lasts comes on top."""
        run_s = self._evaluated_s(machine, repetitions, "invoke_stateful", "main")
        if not repetitions.end_to_end:
            return run_s
        copy_s = self._evaluated_s(machine, repetitions, "set_input", "main", *arguments)
        return [sum(times) for times in zip(run_s, copy_s, strict=True)]

    def _evaluated_s(self, machine: Any, repetitions: Repetitions, function: str, *arguments: Any) -> list[float]:
        evaluate = machine.time_evaluator(function, self.device, number=repetitions.number, repeat=repetitions.repeat)
        return [float(time_s) for time_s in evaluate(*arguments).results]
