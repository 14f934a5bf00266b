"""``tvmc run``: one frame through a package, here or on a board, with times and a profile if they are wanted."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cospipe.backends.bundle import Bundle
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.backends.runtime.tvm_runtime import compatible_version, runtime_version
from cospipe.backends.tvm.own_thread import in_own_thread
from cospipe.backends.tvm.tvmc.boards import Board, connect
from cospipe.backends.tvm.tvmc.inputs import FillMode, complete_inputs
from cospipe.backends.tvm.tvmc.kernel_profile import kernel_table, kernel_times
from cospipe.backends.tvm.tvmc.loaded_library import LoadedLibrary
from cospipe.backends.tvm.tvmc.package import LibraryPackage, Package
from cospipe.backends.tvm.tvmc.package_metadata import PackagedTensor
from cospipe.backends.tvm.tvmc.pipeline_run import LoadedPipeline
from cospipe.backends.tvm.tvmc.result import TVMCResult
from cospipe.backends.tvm.tvmc.run_sessions import LocalSession, RunSession
from cospipe.backends.tvm.tvmc.timing import Repetitions
from cospipe.ir.errors import BundleError, UsageError, several
from cospipe.ir.tensor_file import Array


@dataclass(frozen=True)
class RunRequest:
    """What is to be run, and what is wanted of it.

    Parameters
    ----------
    inputs : mapping of str to array
        Arrays by input name.
    fill_mode : str
        What other inputs are filled with, see :func:`cospipe.backends.tvm.tvmc.inputs.complete_inputs`.
    repetitions : Repetitions, optional
        How often it is run for its times; None measures none.
    profiles : bool
        Whether the time of each kernel, or of each stage of a pipeline, is wanted.
    board : Board, optional
        Where it runs; None is this machine.
    """

    inputs: Mapping[str, Array] = field(default_factory=dict)
    fill_mode: FillMode = "random"
    repetitions: Repetitions | None = None
    profiles: bool = False
    board: Board | None = None


def run_package(package: Package, request: RunRequest) -> TVMCResult:
    """Run one frame through a package.

    Parameters
    ----------
    package : LibraryPackage or Bundle
        From :func:`cospipe.backends.tvm.tvmc.package.open_package`.
    request : RunRequest
        What is wanted.

    Raises
    ------
    CospipeError
        When inputs do not fit, the package cannot run there, or the board cannot be reached.
    """
    if isinstance(package, Bundle):
        return _run_pipeline(package, request)
    inputs = complete_inputs(package.metadata.inputs, request.inputs, request.fill_mode)
    board = request.board
    if board is None:
        _check_runs_here(package)
        return in_own_thread(lambda: _run_library(package, LocalSession(), inputs, request), "tvmc-run")
    return in_own_thread(lambda: _run_library(package, connect(board), inputs, request), "tvmc-run")


def _run_library(
    package: LibraryPackage, session: RunSession, inputs: Mapping[str, Array], request: RunRequest
) -> TVMCResult:
    loaded = LoadedLibrary(package, session, inputs)
    outputs = loaded.run()
    profile = _kernel_profile(package, session, loaded) if request.profiles else None
    times = loaded.times(request.repetitions) if request.repetitions else None
    return TVMCResult(_named(outputs), times, profile)


def _kernel_profile(package: LibraryPackage, session: RunSession, loaded: LoadedLibrary) -> str:
    with tempfile.TemporaryDirectory(prefix="cospipe-tvmc-") as folder:
        return kernel_table(kernel_times(loaded, session, package.metadata, Path(folder)))


def _run_pipeline(bundle: Bundle, request: RunRequest) -> TVMCResult:
    if request.board:
        raise UsageError(
            f"{bundle.path} is a pipeline, which TVM's RPC cannot run; copy it to the board and run it there:"
            " tvmc run or cospipe run."
        )
    tensors = [PackagedTensor(**dict(spec)) for spec in bundle.manifest.inputs]
    inputs = complete_inputs(tensors, request.inputs, request.fill_mode)
    with PipelineRunner(bundle) as runner:
        loaded = LoadedPipeline(bundle, runner, inputs)
        outputs = loaded.run()
        profile = loaded.profile() if request.profiles else None
        times = loaded.times(request.repetitions) if request.repetitions else None
    return TVMCResult(_named(outputs), times, profile)


def _named(outputs: Sequence[Array]) -> dict[str, Array]:
    return {f"output_{position}": array for position, array in enumerate(outputs)}


def _check_runs_here(package: LibraryPackage) -> None:
    metadata, problems = package.metadata, []
    if metadata.architecture != platform.machine():
        problems.append(
            f"it was compiled for {metadata.architecture}, this machine is {platform.machine()}; run it on a board"
            " by --rpc-tracker"
        )
    if compatible_version(metadata.tvm_version) != runtime_version():
        problems.append(
            f"it was compiled with TVM {metadata.tvm_version}, installed is {runtime_version()}; compile it again or"
            f" install apache-tvm {compatible_version(metadata.tvm_version)}"
        )
    if problems:
        raise BundleError(several(f"{package.path} does not run here", problems))
