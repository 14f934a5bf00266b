"""One network through all runtimes, in a process of its own: a crash or a leak there ends only that network's rows."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median

import torch
from environment import Row
from models import InputSpec, load_network
from runtimes import Array, read_inputs
from runtimes_memory import Memory, ending, measure_memory
from runtimes_prepare import Preparation, prepare, write_frame
from runtimes_timing import SessionThread, TimedRun, alternate

from cospipe.backends.runtime.compare import relative_error
from cospipe.ir.errors import CospipeError, first_line

LARGEST_ERROR = 0.01
"""Outputs that are further from eager PyTorch are not this network's; their times are not reported."""
_LOG = "log.txt"
_SECONDS_TO_END = 10

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Parameters
    ----------
    inputs : tuple of InputSpec
        Empty for the network's default.
    keep_weights : bool
        Whether the factory's weights are not randomised.
    runtimes : tuple of str
        Which ones.
    cpu_ids : tuple of int
        Cores; as many threads.
    cores : str
        The same for cospipe: ``cpu:1``.
    rounds : int
        Timed runs of each runtime.
    """

    inputs: tuple[InputSpec, ...]
    keep_weights: bool
    runtimes: tuple[str, ...]
    cpu_ids: tuple[int, ...]
    cores: str
    rounds: int

    @property
    def steps(self) -> int:
        """How often ``progress`` is called at most."""
        return 3 * len(self.runtimes) + self.rounds


@dataclass
class Result:
    """What is known of one runtime; with an ``error`` it was given up."""

    runtime: str
    memory: Memory | None = None
    compile_s: float | None = None
    relative_error: float | None = None
    session: SessionThread | None = None
    runs: Sequence[TimedRun] = ()
    error: str | None = None


Step = Callable[[Result, Preparation], None]


def run_measurement(model: str, settings: Settings, folder: Path, progress: Progress) -> list[Row]:
    """Measure a network in a new process.

    Parameters
    ----------
    model : str
        ``package.module:factory``.
    settings : Settings
        How.
    folder : Path
        An empty one, for the files that the runtimes load.
    progress : callable
        Is told what is done next.

    Returns
    -------
    list of Row
        One for each runtime. One that fails has an ``error``; when the process dies, all have.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(model, settings, folder, sender), daemon=True)
    process.start()
    sender.close()
    step = "starting"
    try:
        while isinstance(message := receiver.recv(), str):
            step = message
            progress(step)
        results: list[Result] = message
    except EOFError:
        process.join()
        words = ending(process.exitcode or 0, _log(folder))
        results = _failed(settings, f"The process that measured it, at {step!r}, {words}.")
    finally:
        receiver.close()  # the process ends at the latest when it tries to tell the next step
        process.join(_SECONDS_TO_END)
        process.terminate()
        process.join()
    return [_row(model, settings, result) for result in results]


def _log(folder: Path) -> str:
    with suppress(OSError):
        return (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    return ""


def _work(model: str, settings: Settings, folder: Path, sender: Connection) -> None:
    """Body of the process."""
    try:
        _redirect_output(folder / _LOG)
        sender.send(_measure(model, settings, folder, sender.send))
    except CospipeError as error:
        sender.send(_failed(settings, str(error)))
    except (KeyboardInterrupt, BrokenPipeError):
        return  # nobody waits for the results any more


def _redirect_output(file: Path) -> None:
    """Write what runtimes and converters print into a file instead of over the progress bar."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _measure(model: str, settings: Settings, folder: Path, progress: Progress) -> list[Result]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    torch.set_num_threads(len(settings.cpu_ids))  # inductor writes the number into its kernels
    network = load_network(model, settings.inputs, settings.keep_weights)
    preparation = Preparation(network, folder, settings.cpu_ids, settings.cores)
    expected = write_frame(preparation)
    results = [Result(runtime) for runtime in settings.runtimes]
    for result in results:
        progress(f"preparing {result.runtime}")
        _guard(_prepare, result, preparation)
    for result in results:
        progress(f"memory of {result.runtime}")
        _guard(_measure_memory, result, preparation)
    _pin_all_threads(settings.cpu_ids)
    for result in results:
        progress(f"loading {result.runtime}")
        _guard(partial(_load, expected), result, preparation)
    sessions = {result.runtime: result.session for result in results if result.session}
    runs = alternate(sessions, settings.rounds, progress)
    return [replace(result, runs=runs.get(result.runtime, []), session=None) for result in results]


def _guard(step: Step, result: Result, preparation: Preparation) -> None:
    """Turn any failure into the result's error; the log has the rest. Nothing more is done for such a runtime."""
    if result.error is not None:
        return
    try:
        step(result, preparation)
    except CospipeError as error:
        result.error = str(error)
    except Exception as error:
        traceback.print_exc()
        result.error = f"{result.runtime} fails with {type(error).__name__}: {first_line(error)}."


def _prepare(result: Result, preparation: Preparation) -> None:
    result.compile_s = prepare(result.runtime, preparation)


def _measure_memory(result: Result, preparation: Preparation) -> None:
    result.memory = measure_memory(result.runtime, preparation.folder, preparation.cpu_ids)


def _pin_all_threads(cpu_ids: tuple[int, ...]) -> None:
    """Keep this process, with the threads that preparing has left behind, on some cores."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpu_ids)


def _load(expected: list[Array], result: Result, preparation: Preparation) -> None:
    """Load a runtime, unless it computes something else."""
    inputs = read_inputs(preparation.folder)
    session = SessionThread(result.runtime, preparation.folder, inputs, preparation.cpu_ids)
    try:
        result.relative_error = _checked_error(session.warm_up(), expected)
    except BaseException:
        session.close()
        raise
    result.session = session


def _checked_error(outputs: list[Array], expected: list[Array]) -> float:
    """Return the largest relative error of any output; ncnn's lack the batch dimension.

    Raises
    ------
    CospipeError
        When the outputs are not those of the network.
    """
    if [array.size for array in outputs] != [array.size for array in expected]:
        raise CospipeError(f"It returns shapes {_shapes(outputs)}, eager PyTorch returns {_shapes(expected)}.")
    pairs = zip(outputs, expected, strict=True)
    error = max(relative_error(ours.reshape(theirs.shape), theirs) for ours, theirs in pairs)
    if not error <= LARGEST_ERROR:
        raise CospipeError(f"It computes something else than eager PyTorch: the relative error is {error:.2g}.")
    return error


def _shapes(arrays: list[Array]) -> str:
    return ", ".join("x".join(map(str, array.shape)) for array in arrays)


def _failed(settings: Settings, error: str) -> list[Result]:
    return [Result(runtime, error=error) for runtime in settings.runtimes]


def _row(model: str, settings: Settings, result: Result) -> Row:
    times, memory = [run.milliseconds for run in result.runs], result.memory
    return {
        "model": model.rpartition(":")[2],
        "runtime": result.runtime,
        "threads": len(settings.cpu_ids),
        "median_ms": round(median(times), 4) if times else None,
        "min_ms": round(min(times), 4) if times else None,
        "interrupted": round(mean(float(run.interrupted) for run in result.runs), 3) if times else None,
        "relative_error": result.relative_error,
        "peak_mb": memory.peak_mb if memory else None,
        "baseline_mb": memory.baseline_mb if memory else None,
        "compile_s": None if result.compile_s is None else round(result.compile_s, 2),
        "error": result.error,
    }
