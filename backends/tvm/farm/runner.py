"""MetaSchedule's candidates, measured on all boards of a farm at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.runner import (
    EvaluatorConfig,
    PyRunner,
    PyRunnerFuture,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
)
from tvm.s_tir.meta_schedule.runner.rpc_runner import default_alloc_argument
from tvm.s_tir.meta_schedule.runner.utils import run_evaluator_common
from tvm.support.tar import untar

from cospipe.backends.tvm.farm.farm import Farm
from cospipe.backends.tvm.farm.job import Done, NoBoardLeftError
from cospipe.backends.tvm.kernel_clock import KernelClock
from cospipe.backends.tvm.link import link_shared_library
from cospipe.backends.tvm.sessions import RemoteSession
from cospipe.ir.errors import RemoteError


@dataclass(frozen=True)
class RunnerOptions:
    """How a candidate is measured.

    Parameters
    ----------
    number : int
        Runs that make one time, their mean.
    repeat : int
        Times that are taken.
    min_repeat_ms : int
        Runs are added until one time took this many milliseconds.
    timeout_s : float
        How long a candidate may take on a board in all, in seconds.
    """

    number: int = 3
    repeat: int = 1
    min_repeat_ms: int = 100
    timeout_s: float = 30.0


def time_candidate(
    session: RemoteSession,
    _clock: KernelClock,
    artifact: str,
    architecture: str,
    arguments: Sequence[Sequence[Any]],
    options: RunnerOptions,
) -> list[float]:
    """Return the times of a kernel on a board in seconds; its inputs are random."""
    with tempfile.TemporaryDirectory(prefix="cospipe-candidate-") as folder:
        module = session.load(_linked(Path(artifact), Path(folder), architecture))
    tensors = default_alloc_argument(session.rpc, session.device, arguments, 1)
    config = EvaluatorConfig(options.number, options.repeat, options.min_repeat_ms)
    return list(map(float, run_evaluator_common(module, session.device, config, tensors)))


def _linked(artifact: Path, folder: Path, architecture: str) -> Path:
    """Return a library: MetaSchedule's builder leaves object files in a tar, and boards have no linker."""
    if artifact.suffix != ".tar":
        return artifact
    untar(str(artifact), str(folder))
    library = folder / f"{artifact.stem}.so"
    link_shared_library([str(file) for file in sorted(folder.glob("*.o"))], library, architecture)
    return library


@derived_object
class FarmRunnerFuture(PyRunnerFuture):  # type: ignore[misc]
    """A candidate that is measured, or waits for a board; tells its runner when none is left."""

    def __init__(self, future: Future[Done], tell: Callable[[NoBoardLeftError], None]) -> None:
        super().__init__()
        self.future, self.tell = future, tell

    def done(self) -> bool:
        """Return whether it was measured, or failed."""
        return self.future.done()

    def result(self) -> RunnerResult:
        """Wait for its times."""
        try:
            return RunnerResult(self.future.result().value, None)
        except NoBoardLeftError as error:
            self.tell(error)
            return RunnerResult(None, str(error))
        except (RemoteError, CancelledError) as error:
            return RunnerResult(None, str(error))


@derived_object
class FarmRunner(PyRunner):  # type: ignore[misc]
    """Measures candidates on the boards of a farm, one at a time on each; the farm's requirement says on which cores.

    A candidate that fails on two boards counts as wrong. When no board is left, :meth:`run` raises, so that the search
    ends.

    Parameters
    ----------
    farm : Farm
        The boards; whoever opened it closes it.
    options : RunnerOptions
        How to measure.

    Attributes
    ----------
    no_board_left : RemoteError or None
        What happened to every board, once none is left; the search hands it on as an error of TVM's.
    """

    def __init__(self, farm: Farm, options: RunnerOptions | None = None) -> None:
        super().__init__()
        self.farm = farm
        self.options = options or RunnerOptions()
        self.no_board_left: RemoteError | None = None

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Let the farm measure candidates; return what their times will be.

        Raises
        ------
        RemoteError
            When earlier candidates found no board.
        """
        if self.no_board_left is not None:
            raise self.no_board_left
        return [FarmRunnerFuture(self._submit(one), self._end) for one in runner_inputs]

    def _submit(self, candidate: RunnerInput) -> Future[Done]:
        arguments = [_plain(argument.as_json()) for argument in candidate.args_info]
        artifact = str(candidate.artifact_path)
        given = (artifact, self.farm.requirement.architecture, arguments, self.options)
        return self.farm.submit("a candidate", self.options.timeout_s, time_candidate, given)

    def _end(self, error: NoBoardLeftError) -> None:
        self.no_board_left = error


def _plain(value: Any) -> Any:
    """Return what TVM keeps in arrays of its own as what Python pickles."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    return [_plain(part) for part in value]
