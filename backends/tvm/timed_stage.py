"""A compiled network, loaded where it is timed: once to run as it is, once with a clock around each kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tvm import relax

from cospipe.backends.runtime.compare import relative_error
from cospipe.backends.tvm.kernel_clock import INSTRUMENT, KernelClock
from cospipe.backends.tvm.lower import LoweredStage
from cospipe.backends.tvm.sessions import LocalSession, Session
from cospipe.ir.errors import LoweringError

LARGEST_ERROR = 1e-3
"""A network that computes something else than eager PyTorch is not timed."""


class TimedStage:
    """A network that was compiled as one stage.

    The functions of a virtual machine that work through RPC are used here, too: inputs and results stay inside.

    Parameters
    ----------
    session : Session
        Where it runs; the calling thread has the cores already.
    clock : KernelClock
        Of this session.
    library : Path
        What was compiled.
    lowered : LoweredStage
        What the compiler tells of it.
    inputs : sequence of Tensor
        One frame.
    stored : mapping of str to Tensor
        The network's weights by name.

    Attributes
    ----------
    arguments, weights : list of tensor
        All that ``main`` takes, and the weights among it, as the stage prepared them.
    """

    def __init__(
        self,
        session: Session,
        clock: KernelClock,
        library: Path,
        lowered: LoweredStage,
        inputs: Sequence[torch.Tensor],
        stored: Mapping[str, torch.Tensor],
    ) -> None:
        self._session, self._clock = session, clock
        module = session.load(library)
        self._plain, self._clocked = (relax.VirtualMachine(module, session.device) for _ in range(2))
        self.weights = self._prepared_weights(lowered, stored)
        self.arguments = [*map(self._tensor, inputs), *self.weights]
        for machine in (self._plain, self._clocked):
            machine.set_input("main", *self.arguments)
        self._clocked.module["set_instrument"](INSTRUMENT)
        self._time_whole = _whole_timer(self._plain, session)
        self._positions = self._kernel_positions([call.kernel for call in lowered.calls])

    def _tensor(self, value: torch.Tensor) -> Any:
        return self._session.tensor(value.detach().numpy())

    def _prepared_weights(self, lowered: LoweredStage, stored: Mapping[str, torch.Tensor]) -> list[Any]:
        prepared = []
        for argument in lowered.weight_arguments:
            tensors = [self._tensor(stored[name]) for name in argument.weights]
            prepared.append(self._call(argument.function, tensors)[0] if argument.function else tensors[0])
        return prepared

    def _call(self, function: str, tensors: Sequence[Any]) -> Sequence[Any]:
        self._plain.set_input(function, *tensors)
        self._plain.invoke_stateful(function)
        results = self._plain.get_outputs(function)
        return results if isinstance(results, tuple) else (results,)

    def _kernel_positions(self, kernels: Sequence[str]) -> list[int]:
        """Return where the kernels are among everything that the virtual machine calls."""
        self._clock.start(notes_names=True)
        self._clocked.invoke_stateful("main")
        known = set(kernels)
        positions = [place for place, name in enumerate(self._clock.names()) if name in known]
        if len(positions) != len(kernels):
            raise LoweringError(
                f"The network calls {len(positions)} kernels where {len(kernels)} were compiled; measuring it makes no"
                " sense. Please report the network."
            )
        return positions

    def run_whole(self) -> float:
        """Run one frame without looking at kernels; return its microseconds."""
        return self._time_whole()

    def run_clocked(self) -> tuple[list[float], list[bool]]:
        """Run one frame; return the microseconds of each kernel in order, and whether nothing disturbed it."""
        self._clock.start()
        self._clocked.invoke_stateful("main")
        times_ns = self._clock.times_ns()
        kernels_ns = [times_ns[position] for position in self._positions]
        return [abs(time_ns) / 1e3 for time_ns in kernels_ns], [time_ns >= 0 for time_ns in kernels_ns]

    def switches(self) -> int:
        """Return how often another program took a core away so far."""
        return self._clock.switches()

    def outputs(self) -> list[NDArray[Any]]:
        """Run one frame; return what it computes."""
        self._plain.invoke_stateful("main")
        results = self._plain.get_outputs("main")
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]

    def check(self, expected: Sequence[NDArray[Any]]) -> None:
        """Check that it computes what it should.

        Raises
        ------
        LoweringError
            When a number is off by more than rounding.
        """
        errors = [relative_error(ours, theirs) for ours, theirs in zip(self.outputs(), expected, strict=True)]
        if not float(np.max(errors)) <= LARGEST_ERROR:
            raise LoweringError(
                f"It computes something else than eager PyTorch: the relative error is {max(errors):.1e}."
            )


def _whole_timer(machine: Any, session: Session) -> Callable[[], float]:
    """Return what times one run of ``main`` where it runs; the way there and back through RPC does not count."""
    if isinstance(session, LocalSession):
        invoke = machine.module["invoke_stateful"]

        def timed_here() -> float:
            started_ns = time.perf_counter_ns()
            invoke("main")
            return (time.perf_counter_ns() - started_ns) / 1e3

        return timed_here
    evaluator = machine.module.time_evaluator("invoke_stateful", session.device, number=1, repeat=1)
    return lambda: float(evaluator("main").mean) * 1e6
